//! See `quorate_fuzz::FRAME`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::FRAME.run(data));
