//! See `quorate_fuzz::REQUESTS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::REQUESTS.run(data));
