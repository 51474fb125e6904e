//! See `quorate_fuzz::COMMANDS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::COMMANDS.run(data));
