//! libFuzzer's entry to the target of the same name.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oprofile_fuzz_targets::target::perf_map(data));
