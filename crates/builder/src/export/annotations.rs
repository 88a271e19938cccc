//! Annotations of images, by level and platform: `annotation[-level][[platform]].key`.

use std::collections::BTreeMap;

use cofferdam_image::Platform;

use crate::failure::Failure;

/// Annotations in one request; manifests that hold more are too large for registries.
const MAX_ANNOTATIONS: usize = 10_000;

type Pairs = BTreeMap<String, String>;

/// Annotations for each level.
#[derive(Debug, Clone, Default)]
pub(crate) struct Levels {
    pub(crate) index: Pairs,
    pub(crate) index_descriptor: Pairs,
    pub(crate) manifest: Pairs,
    pub(crate) manifest_descriptor: Pairs,
}

/// Annotations by platform; the empty one is every platform.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations(BTreeMap<String, Levels>);

/// A key that is an annotation's.
struct Key<'a> {
    level: &'a str,
    platform: String,
    key: &'a str,
}

impl Annotations {
    /// Takes annotations out of attributes or metadata; the rest is left to others.
    pub(crate) fn read<'a>(
        pairs: impl Iterator<Item = (&'a str, String)>,
    ) -> Result<Self, Failure> {
        let mut found = Self::default();
        for (count, (name, value)) in
            pairs.filter(|(name, _)| name.starts_with("annotation")).enumerate()
        {
            if count >= MAX_ANNOTATIONS {
                return Err(Failure::invalid("too many annotations"));
            }
            let Some(key) = parse(name)? else { continue };
            let levels = found.0.entry(key.platform).or_default();
            let level = match key.level {
                "" | "manifest" => &mut levels.manifest,
                "manifest-descriptor" => &mut levels.manifest_descriptor,
                "index" => &mut levels.index,
                "index-descriptor" => &mut levels.index_descriptor,
                other => {
                    return Err(Failure::invalid(format!("unrecognized annotation type {other}")));
                }
            };
            level.insert(key.key.to_owned(), value);
        }
        Ok(found)
    }

    /// Adds others, which win.
    pub(crate) fn merge(&mut self, others: Self) {
        for (platform, levels) in others.0 {
            let own = self.0.entry(platform).or_default();
            own.index.extend(levels.index);
            own.index_descriptor.extend(levels.index_descriptor);
            own.manifest.extend(levels.manifest);
            own.manifest_descriptor.extend(levels.manifest_descriptor);
        }
    }

    /// Refuses annotations of platforms that there are not, and those that have no place.
    pub(crate) fn check(&self, has: impl Fn(&str) -> bool, oci_types: bool) -> Result<(), Failure> {
        for (platform, levels) in &self.0 {
            if !platform.is_empty() && !has(platform) {
                return Err(Failure::invalid(format!(
                    "invalid annotation: no platform {platform} found in source"
                )));
            }
            let placed = [&levels.index, &levels.index_descriptor, &levels.manifest_descriptor];
            if !oci_types && placed.iter().any(|pairs| !pairs.is_empty()) {
                return Err(Failure::invalid(
                    "cannot export annotations with \"oci-mediatypes=false\"",
                ));
            }
        }
        Ok(())
    }

    /// The annotations for an image of `platform`, or for what is above all of them.
    pub(crate) fn levels(&self, platform: Option<&Platform>) -> Levels {
        let mut all = Levels::default();
        for levels in self.0.values() {
            all.index.extend(levels.index.clone());
            all.index_descriptor.extend(levels.index_descriptor.clone());
        }
        let own = platform.map(Platform::to_string);
        for platform in std::iter::once("").chain(own.as_deref()) {
            if let Some(levels) = self.0.get(platform) {
                all.manifest.extend(levels.manifest.clone());
                all.manifest_descriptor.extend(levels.manifest_descriptor.clone());
            }
        }
        all
    }
}

/// `None` for a name that only begins like an annotation.
fn parse(name: &str) -> Result<Option<Key<'_>>, Failure> {
    let Some(rest) = name.strip_prefix("annotation") else { return Ok(None) };
    let (level, rest) = match rest.strip_prefix('-') {
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-');
            rest.split_at(end.unwrap_or(rest.len()))
        }
        None => ("", rest),
    };
    let (platform, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((platform, rest)) => (platform, rest),
        None => ("", rest),
    };
    let Some(key) = rest.strip_prefix('.').filter(|key| !key.is_empty()) else { return Ok(None) };
    if key.contains(char::is_whitespace) {
        return Ok(None);
    }
    let platform = match platform {
        "" => String::new(),
        text => Platform::parse(text).map_err(Failure::of)?.to_string(),
    };
    Ok(Some(Key { level, platform, key }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Annotations, Failure> {
        Annotations::read(pairs.iter().map(|(key, value)| (*key, (*value).to_owned())))
    }

    #[test]
    fn levels_and_platforms_are_told_apart() {
        let annotations = read(&[
            ("annotation.a.b", "1"),
            ("annotation-manifest.c", "2"),
            ("annotation-manifest[linux/x86_64].c", "3"),
            ("annotation-manifest-descriptor[linux/arm64].d", "4"),
            ("annotation-index.e", "5"),
            ("annotation-index-descriptor.f", "6"),
            ("annotations", "7"),
            ("name", "8"),
        ])
        .unwrap();
        let amd = Platform::parse("linux/amd64").unwrap();
        let levels = annotations.levels(Some(&amd));
        let pairs = |pairs: &[(&str, &str)]| -> Pairs {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        assert_eq!(levels.manifest, pairs(&[("a.b", "1"), ("c", "3")]));
        assert!(levels.manifest_descriptor.is_empty());
        assert_eq!(levels.index, pairs(&[("e", "5")]));
        assert_eq!(levels.index_descriptor, pairs(&[("f", "6")]));
        assert!(annotations.check(|id| id.starts_with("linux/"), true).is_ok());
        assert!(annotations.check(|id| id == "linux/amd64", true).is_err());
        assert!(annotations.check(|_| true, false).is_err());
        assert!(read(&[("annotation-x.y", "")]).is_err());
        assert!(read(&[("annotation[a b].y", "")]).is_err());
    }
}
