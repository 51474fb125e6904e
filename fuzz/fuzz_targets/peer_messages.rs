//! See `quorate_fuzz::PEER_MESSAGES`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::PEER_MESSAGES.run(data));
