#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| taper_fuzz::state::check(bytes));
