#![no_main]

libfuzzer_sys::fuzz_target!(|input: freehold_fuzz::store::Input| freehold_fuzz::store::check(&input));
