//! The Dockerfile parser and its expansion.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cofferdam_dockerfile::parse_untrusted(data);
});
