//! See `quorate_fuzz::IDENTITY`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::IDENTITY.run(data));
