//! See `quorate_fuzz::ENTRIES`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::ENTRIES.run(data));
