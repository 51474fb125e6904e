//! See `quorate_fuzz::QUEUE_SNAPSHOT`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::QUEUE_SNAPSHOT.run(data));
