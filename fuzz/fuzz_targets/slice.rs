//! See `quorate_fuzz::SLICE`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::SLICE.run(data));
