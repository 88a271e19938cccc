//! Files of buildpacks and labels of their images: descriptors, plans, layers, environments.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cofferdam_cnb::exercise(data);
});
