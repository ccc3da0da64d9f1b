//! The fuzzer's hand on `whimbrel_fuzz::control`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    whimbrel_fuzz::control::run(bytes);
});
