//! See `quorate_fuzz::LOG_RECOVERY`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::LOG_RECOVERY.run(data));
