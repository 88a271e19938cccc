//! `--cache` and `--cache-image`: where the layers that buildpacks cache are kept.

use anyhow::{bail, ensure};

use super::arguments::BuildpackArgs;

/// Where the cache is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cache {
    /// In this image; in the builder without one.
    pub(super) image: Option<String>,
    /// What the builder finds it by; the name of the image, without one. Each flow has its own.
    pub(super) name: Option<String>,
    /// What the user should know about what was asked for.
    pub(super) notes: Vec<String>,
}

/// Reads the flags. `pushes` says whether the build's image goes to a registry.
pub(super) fn cache(args: &BuildpackArgs, pushes: bool) -> anyhow::Result<Cache> {
    let mut cache = Cache::default();
    for text in &args.cache {
        let one = One::parse(text)?;
        match (one.kind, one.format) {
            (_, "bind") => bail!(
                "--cache {text:?}: a directory of this machine cannot be a cache, the builder keeps \
                 caches itself; use format=volume or format=image"
            ),
            ("launch", _) => cache.notes.push(format!(
                "--cache {text:?} is not needed: layers of earlier images are found by their digests."
            )),
            ("build", "image") => {
                ensure!(
                    cache.image.is_none(),
                    "--cache {text:?}: there can be only one image for the cache"
                );
                let Some(name) = one.name else { bail!("--cache {text:?} needs name=IMAGE") };
                cache.image = Some(name.to_owned());
            }
            ("build", "volume") => {
                ensure!(
                    cache.name.is_none() || one.name.is_none(),
                    "--cache {text:?}: there can be only one name for the cache"
                );
                cache.name = one.name.map(str::to_owned).or(cache.name);
            }
            ("build", format) => {
                bail!("--cache {text:?}: format {format:?}: use volume or image")
            }
            (kind, _) => bail!("--cache {text:?}: type {kind:?}: use build or launch"),
        }
    }
    if let Some(image) = &args.cache_image {
        ensure!(
            cache.image.is_none(),
            "--cache-image and --cache both name an image for the cache"
        );
        cache.image = Some(image.clone());
    }
    if let Some(image) = &cache.image {
        ensure!(
            pushes,
            "the cache image {image} is written to a registry, which needs --push (--publish)"
        );
    }
    Ok(cache)
}

struct One<'a> {
    kind: &'a str,
    format: &'a str,
    name: Option<&'a str>,
}

impl<'a> One<'a> {
    fn parse(text: &'a str) -> anyhow::Result<Self> {
        let mut one = Self { kind: "build", format: "volume", name: None };
        for field in text.split(';').filter(|field| !field.is_empty()) {
            let Some((key, value)) = field.split_once('=') else {
                bail!("--cache {text:?}: {field:?} is not KEY=VALUE")
            };
            match key.trim() {
                "type" => one.kind = value.trim(),
                "format" => one.format = value.trim(),
                "name" | "source" => one.name = Some(value.trim()).filter(|name| !name.is_empty()),
                key => bail!("--cache {text:?}: unknown key {key:?}"),
            }
        }
        Ok(one)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(texts: &[&str], image: Option<&str>) -> anyhow::Result<Cache> {
        let cache_image = image.map(str::to_owned);
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        cache(&BuildpackArgs { cache: texts, cache_image, ..BuildpackArgs::default() }, true)
    }

    #[test]
    fn forms_of_pack() {
        assert_eq!(of(&[], None).unwrap(), Cache::default());
        assert_eq!(of(&["type=build;format=volume"], None).unwrap(), Cache::default());
        let named = of(&["type=build;format=image;name=r.example/c:1"], None).unwrap();
        assert_eq!(named.image.as_deref(), Some("r.example/c:1"));
        assert_eq!(of(&[], Some("r.example/c")).unwrap().image.as_deref(), Some("r.example/c"));
        let noted = of(&["type=launch;format=volume;name=x", "type=build;name=y"], None).unwrap();
        assert_eq!((noted.image, noted.notes.len()), (None, 1));
        assert_eq!(noted.name.as_deref(), Some("y"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "type=build;format=bind;source=/tmp/x",
            "type=launch;format=bind;source=/tmp/x",
            "type=build;format=image",
            "type=other",
            "format=tape",
            "key=x",
            "build",
        ] {
            let error = of(&[text], None).unwrap_err().to_string();
            assert!(error.contains("--cache") && error.contains(text), "{error}");
        }
        assert!(of(&["format=image;name=a", "format=image;name=b"], None).is_err());
        assert!(of(&["format=image;name=a"], Some("b")).is_err());
        let unpushed = BuildpackArgs { cache_image: Some("a".into()), ..BuildpackArgs::default() };
        assert!(cache(&unpushed, false).unwrap_err().to_string().contains("--push"));
    }
}
