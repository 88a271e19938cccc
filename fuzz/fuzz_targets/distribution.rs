//! The registry's parsers: manifests, paths and names, range headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cofferdam_registry::exercise_manifest(data);
    cofferdam_registry::exercise_names(data);
    cofferdam_registry::exercise_ranges(data);
});
