#![no_main]

libfuzzer_sys::fuzz_target!(|input: freehold_fuzz::gguf::Input| freehold_fuzz::gguf::check(&input));
