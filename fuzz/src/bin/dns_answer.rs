#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stockade::invariant::dns_answer::check(data));
