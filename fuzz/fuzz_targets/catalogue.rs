#![no_main]

libfuzzer_sys::fuzz_target!(|input: freehold_fuzz::catalogue::Input| freehold_fuzz::catalogue::check(&input));
