//! The fuzzer's hand on `whimbrel_fuzz::source`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    whimbrel_fuzz::source::run(bytes);
});
