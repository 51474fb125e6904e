//! See `quorate_fuzz::RAFT_CODEC`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::RAFT_CODEC.run(data));
