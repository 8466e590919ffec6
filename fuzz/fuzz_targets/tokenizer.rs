#![no_main]

libfuzzer_sys::fuzz_target!(|input: freehold_fuzz::tokenizer::Input| freehold_fuzz::tokenizer::check(&input));
