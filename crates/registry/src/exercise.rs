//! Entry points for fuzzing: every parser of what strangers send, with what must hold of
//! whatever it accepts.

use crate::name::{Reference, Repository, is_component};
use crate::range::{Chunk, Wanted, wanted};
use crate::route::Route;

/// The manifest parser.
pub fn exercise_manifest(data: &[u8]) {
    crate::manifest::exercise(data);
}

/// Paths, repository names, tags, digests and image names.
pub fn exercise_names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(repository) = Repository::parse(text) {
        assert!(is_component(repository.project()));
        assert!(!text.contains("..") && !text.starts_with('/') && !text.contains("//"));
    }
    if let Some(reference) = Reference::parse(text) {
        assert_eq!(reference.to_string(), text);
        assert!(!text.contains('/') && text != "." && text != "..");
    }
    if let Ok(route) = Route::parse(text) {
        // Whatever is accepted is accepted again in its own words.
        let again = match &route {
            Route::Base | Route::Catalog => text.to_owned(),
            Route::Tags(name) => format!("{name}/tags/list"),
            Route::Manifest(name, reference) => format!("{name}/manifests/{reference}"),
            Route::Blob(name, digest) => format!("{name}/blobs/{digest}"),
            Route::Uploads(name) => format!("{name}/blobs/uploads/"),
            Route::Upload(name, id) => format!("{name}/blobs/uploads/{id}"),
            Route::Referrers(name, digest) => format!("{name}/referrers/{digest}"),
        };
        assert_eq!(Route::parse(&again), Ok(route));
    }
    if let Ok(image) = crate::ImageName::parse("project", text) {
        assert_eq!(image.to_string(), text);
        let repository = image.repository();
        assert!(repository == "project" || repository.starts_with("project/"));
    }
}

/// Range headers of downloads and chunks.
pub fn exercise_ranges(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for total in [0, 1, 10, u64::MAX >> 1] {
        if let Wanted::Part { first, length } = wanted(Some(text), total) {
            assert!(length > 0 && first.checked_add(length).is_some_and(|end| end <= total));
        }
    }
    if let Some(chunk) = Chunk::parse(text) {
        assert!(chunk.length > 0 && chunk.first.checked_add(chunk.length).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_change_of_good_input_is_survived() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"sha256:{hex}","size":1}},"layers":[]}}"#
        );
        let id = "01234567-89ab-4def-8123-456789abcdef";
        for seed in [
            manifest,
            format!("p/app/blobs/sha256:{hex}"),
            format!("p/app/manifests/sha256%3a{hex}"),
            format!("p/a.b/c__d/blobs/uploads/{id}"),
            "p/app/tags/list".to_owned(),
            "app/x:v1.0-rc_2".to_owned(),
            "bytes=10-20".to_owned(),
            "0-99".to_owned(),
        ] {
            for place in 0..seed.len() {
                for byte in 0..=u8::MAX {
                    let mut changed = seed.clone().into_bytes();
                    changed[place] = byte;
                    exercise_manifest(&changed);
                    exercise_names(&changed);
                    exercise_ranges(&changed);
                    exercise_names(&changed[place..]);
                }
            }
        }
    }
}
