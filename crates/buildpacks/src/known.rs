//! Builders that are trusted unless somebody denies them.
//!
//! The list is the one that pack ships. Every entry is bound to the registry it names, Docker Hub
//! where it names none. It must never be extended from outside this file.

/// Their references; without a tag, any tag is meant.
pub const KNOWN_BUILDERS: &[&str] = &[
    "gcr.io/buildpacks/builder:google-22",
    "heroku/builder:26",
    "heroku/builder:24",
    "heroku/builder:22",
    "heroku/builder:20",
    "paketobuildpacks/builder-jammy-base",
    "paketobuildpacks/builder-jammy-full",
    "paketobuildpacks/builder-jammy-tiny",
    "paketobuildpacks/builder-jammy-buildpackless-static",
    "paketobuildpacks/ubuntu-noble-builder",
    "paketobuildpacks/builder-ubi8-base",
    "paketobuildpacks/ubi-9-builder",
    "paketobuildpacks/ubi-10-builder",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::image_name::ImageName;

    #[test]
    fn every_entry_is_a_name_and_none_is_there_twice() {
        let names = KNOWN_BUILDERS.iter().map(|known| ImageName::parse(known).unwrap());
        let names = names.map(|name| name.to_string()).collect::<Vec<_>>();
        let distinct = names.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| {
            name.starts_with("docker.io/") || name.starts_with("gcr.io/buildpacks/")
        }));
    }
}
