#![no_main]

libfuzzer_sys::fuzz_target!(|input: freehold_fuzz::chat_template::Input| freehold_fuzz::chat_template::check(&input));
