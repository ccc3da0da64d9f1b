//! The fuzzer's hand on `whimbrel_fuzz::lander`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    whimbrel_fuzz::lander::run(bytes);
});
