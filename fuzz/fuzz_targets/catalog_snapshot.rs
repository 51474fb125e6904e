//! See `quorate_fuzz::CATALOG_SNAPSHOT`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::CATALOG_SNAPSHOT.run(data));
