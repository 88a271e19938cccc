//! Builders that are trusted unless somebody denies them.
//!
//! The list is the one that pack ships. Every entry is bound to the registry it names, Docker Hub
//! where it names none. It must never be extended from outside this file.

/// A builder that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBuilder {
    /// Its reference; without a tag, any tag is meant.
    pub image: &'static str,
    /// Whether people who have no builder are pointed to it.
    pub suggested: bool,
}

const fn suggested(image: &'static str) -> KnownBuilder {
    KnownBuilder { image, suggested: true }
}

const fn older(image: &'static str) -> KnownBuilder {
    KnownBuilder { image, suggested: false }
}

/// Builders that are trusted unless somebody denies them.
pub const KNOWN_BUILDERS: &[KnownBuilder] = &[
    suggested("gcr.io/buildpacks/builder:google-22"),
    older("heroku/builder:26"),
    suggested("heroku/builder:24"),
    older("heroku/builder:22"),
    older("heroku/builder:20"),
    suggested("paketobuildpacks/builder-jammy-base"),
    suggested("paketobuildpacks/builder-jammy-full"),
    suggested("paketobuildpacks/builder-jammy-tiny"),
    suggested("paketobuildpacks/builder-jammy-buildpackless-static"),
    suggested("paketobuildpacks/ubuntu-noble-builder"),
    suggested("paketobuildpacks/builder-ubi8-base"),
    suggested("paketobuildpacks/ubi-9-builder"),
    suggested("paketobuildpacks/ubi-10-builder"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::image_name::ImageName;

    #[test]
    fn every_entry_is_a_name_and_none_is_there_twice() {
        let names = KNOWN_BUILDERS.iter().map(|known| ImageName::parse(known.image).unwrap());
        let names = names.map(|name| name.to_string()).collect::<Vec<_>>();
        let distinct = names.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| {
            name.starts_with("docker.io/") || name.starts_with("gcr.io/buildpacks/")
        }));
    }
}
