//! The fuzzer's hand on `whimbrel_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    whimbrel_fuzz::frames::run(bytes);
});
