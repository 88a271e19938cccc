//! Manifests, indexes, configs and references of strangers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = cofferdam_image::Document::parse(data, None);
    let _ = cofferdam_image::ImageConfig::parse(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = cofferdam_image::Reference::parse(text);
        let _ = cofferdam_digest::Digest::parse(text);
    }
});
