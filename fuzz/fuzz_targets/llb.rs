//! The decoder of build graphs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = cofferdam_graph::load_bytes(data, &cofferdam_graph::Limits::default());
});
