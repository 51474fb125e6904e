//! See `quorate_fuzz::LOG_FORMAT`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::LOG_FORMAT.run(data));
