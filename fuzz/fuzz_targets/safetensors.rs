#![no_main]

libfuzzer_sys::fuzz_target!(|input: freehold_fuzz::safetensors::Input| freehold_fuzz::safetensors::check(&input));
