//! The fuzzer's hand on `whimbrel_fuzz::destination`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    whimbrel_fuzz::destination::run(bytes);
});
