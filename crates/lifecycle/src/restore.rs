//! What a build gives a buildpack back from the build before.
//!
//! Follows Buildpack API "Layer types" and the restorer of Platform API 0.14. Labels of the app and
//! cache image were written by whoever could push: names are checked, values only become TOML. Must
//! never decide what a layer's contents are: it names a digest, and whoever extracts it verifies.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_cnb::{
    ApiVersion, BuildpackLayers, CacheMetadata, Descriptor, Id, LayerFile, LayerMetadata,
    LifecycleMetadata, StoreFile, layer_name,
};

use crate::value::to_table;

/// How to restore.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    /// Restore nothing but `store.toml`.
    pub skip_layers: bool,
    /// Platform API of this build.
    pub platform_api: ApiVersion,
}

/// What one buildpack gets back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredBuildpack {
    /// The buildpack.
    pub id: Id,
    /// `store.toml`.
    pub store: Option<Vec<u8>>,
    /// Layers, by name.
    pub layers: Vec<RestoredLayer>,
}

/// One layer that comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredLayer {
    /// Its name; one directory name.
    pub name: String,
    /// `<name>.toml`: metadata without types.
    pub toml: Vec<u8>,
    /// `sha256:…` of the cached layer that is its contents; a layer whose contents then turn out
    /// not to be there must not be restored at all.
    pub contents: Option<String>,
}

type Layers = BTreeMap<String, LayerMetadata>;

/// Decides for each buildpack of the group, in its order, what comes back from the previous image
/// (`app`) and the cache.
#[must_use]
pub fn restore(
    group: &[Arc<Descriptor>],
    app: Option<&LifecycleMetadata>,
    cache: Option<&CacheMetadata>,
    options: RestoreOptions,
) -> Vec<RestoredBuildpack> {
    let none = Layers::new();
    let of = |all: &'_ [BuildpackLayers], id: &Id| {
        all.iter().position(|buildpack| buildpack.key == id.as_str())
    };
    let restored = |module: &Arc<Descriptor>| {
        let id = module.info.id.clone();
        let app = app.and_then(|app| Some(&app.buildpacks[of(&app.buildpacks, &id)?]));
        let cache = cache.and_then(|cache| Some(&cache.buildpacks[of(&cache.buildpacks, &id)?]));
        let store = app
            .and_then(|app| app.store.as_ref())
            .and_then(|store| toml_bytes(&StoreFile { metadata: to_table(&store.metadata) }));
        let layers = match options.skip_layers {
            true => Vec::new(),
            false => {
                let app = app.map_or(&none, |app| &app.layers);
                let cache = cache.map_or(&none, |cache| &cache.layers);
                restore_layers(app, cache, options.platform_api)
            }
        };
        RestoredBuildpack { id, store, layers }
    };
    group.iter().map(restored).collect()
}

fn restore_layers(app: &Layers, cache: &Layers, platform_api: ApiVersion) -> Vec<RestoredLayer> {
    let cached = |name: &str| cache.get(name).filter(|layer| layer.cache);
    let from_app = app.iter().filter(|(name, layer)| {
        let made_anew = layer.build && !layer.cache;
        layer.launch && !made_anew && (!layer.cache || cached(name).is_some())
    });
    let from_cache = cache.iter().filter(|(name, layer)| {
        let app_decides = app.contains_key(*name) || !platform_api.at_least(14);
        layer.cache && !(layer.launch && app_decides)
    });
    let mut chosen: BTreeMap<&str, &LayerMetadata> = BTreeMap::new();
    chosen.extend(from_app.map(|(name, layer)| (name.as_str(), layer)));
    chosen.extend(from_cache.map(|(name, layer)| (name.as_str(), layer)));
    let restored = |(name, layer): (&str, &LayerMetadata)| {
        let name = restorable(name)?;
        let contents = match cached(name) {
            Some(cached) if cached.sha == layer.sha && is_digest(&cached.sha) => Some(&cached.sha),
            Some(_) => return None,
            None => None,
        };
        Some(RestoredLayer {
            name: name.to_owned(),
            toml: layer_toml(layer)?,
            contents: contents.cloned(),
        })
    };
    chosen.into_iter().filter_map(restored).collect()
}

/// A name that can be a directory beside the `<name>.toml` of every other layer.
fn restorable(name: &str) -> Option<&str> {
    layer_name(name).ok().filter(|name| !name.ends_with(".toml"))
}

fn layer_toml(layer: &LayerMetadata) -> Option<Vec<u8>> {
    let metadata = layer.data.as_object().map(to_table).unwrap_or_default();
    toml_bytes(&LayerFile { metadata, ..LayerFile::default() })
}

fn toml_bytes(value: &impl serde::Serialize) -> Option<Vec<u8>> {
    toml::to_string(value).ok().map(String::into_bytes)
}

/// Whether a label's `sha` is the digest of something.
pub(crate) fn is_digest(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_cnb::{Kind, parse_json};
    use serde_json::{Value, json};

    use super::*;

    fn sha(digit: char) -> String {
        format!("sha256:{}", String::from(digit).repeat(64))
    }

    fn label(layers: Value) -> Value {
        json!({"buildpacks": [{"key": "x", "layers": {}}, {"key": "a/b", "version": "1", "layers": layers,
            "store": {"metadata": {"kept": [1, null]}}}]})
    }

    fn layer(flags: &str, sha: &str) -> Value {
        let has = |flag: &str| flags.split('+').any(|part| part == flag);
        json!({"sha": sha, "data": {"v": 1, "gone": null}, "launch": has("launch"), "build": has("build"), "cache": has("cache")})
    }

    fn run(
        app: Option<Value>,
        cache: Option<Value>,
        minor: u32,
        skip_layers: bool,
    ) -> RestoredBuildpack {
        let text = b"api = \"0.12\"\n[buildpack]\nid = \"a/b\"\nversion = \"2\"\n";
        let module = Arc::new(Descriptor::parse(Kind::Buildpack, "b.toml", text).unwrap());
        let app = app.map(|app| parse_json::<LifecycleMetadata>("l", &app.to_string()).unwrap());
        let cache =
            cache.map(|cache| parse_json::<CacheMetadata>("c", &cache.to_string()).unwrap());
        let options = RestoreOptions { skip_layers, platform_api: ApiVersion::minor(minor) };
        restore(&[module], app.as_ref(), cache.as_ref(), options).remove(0)
    }

    /// Contents of the layer that comes back: nothing, no contents, contents.
    fn one(app: Option<Value>, cache: Option<Value>, minor: u32) -> Option<bool> {
        let wrap = |layer: Option<Value>| layer.map(|layer| label(json!({"l": layer})));
        let restored = run(wrap(app), wrap(cache), minor, false);
        restored.layers.first().map(|layer| {
            assert_eq!(layer.toml, b"[metadata]\nv = 1\n");
            layer.contents.is_some()
        })
    }

    #[test]
    fn flags_of_the_build_before_decide() {
        let (a, b) = (sha('a'), sha('b'));
        let app = |flags: &str| Some(layer(flags, &a));
        let cache = |flags: &str| Some(layer(flags, &a));
        assert_eq!(one(app("launch"), None, 15), Some(false), "launch");
        assert_eq!(one(app("build"), None, 15), None, "build");
        assert_eq!(one(None, cache("cache"), 15), Some(true), "cache");
        assert_eq!(one(app("launch+cache"), cache("launch+cache"), 15), Some(true), "launch+cache");
        assert_eq!(one(app("launch+cache"), None, 15), None, "launch+cache, cache lost");
        let other = Some(layer("launch+cache", &b));
        assert_eq!(one(app("launch+cache"), other.clone(), 15), None, "launch+cache, shas differ");
        assert_eq!(one(None, cache("launch+cache"), 15), Some(true), "app image lost");
        assert_eq!(one(None, cache("launch+cache"), 13), None, "app image lost, before 0.14");
        assert_eq!(one(None, cache("build+cache"), 15), Some(true), "build+cache");
        assert_eq!(one(app("launch+build"), None, 15), None, "launch+build");
        assert_eq!(one(app("launch+build+cache"), cache("launch+build+cache"), 15), Some(true));
        assert_eq!(one(app("launch"), cache("build"), 15), Some(false), "not for the cache");
        assert_eq!(one(app("launch"), other, 15), None, "of another build");
    }

    #[test]
    fn store_comes_back_even_without_layers() {
        let restored = run(Some(label(json!({"l": layer("launch", "")}))), None, 15, true);
        assert!(restored.layers.is_empty());
        assert_eq!(restored.store.unwrap(), b"[metadata]\nkept = [1]\n");
        let nothing = run(None, None, 15, false);
        assert!(nothing.store.is_none() && nothing.layers.is_empty());
    }

    #[test]
    fn hostile_labels_restore_nothing() {
        let mut layers = serde_json::Map::new();
        for name in
            ["..", ".", "", "a/b", "/etc", "launch", "store", "build", "a\0b", "a\nb", "x.toml"]
        {
            layers.insert(name.to_owned(), layer("launch", &sha('a')));
        }
        layers.insert("x".repeat(300), layer("launch", &sha('a')));
        let restored = run(Some(label(Value::Object(layers.clone()))), None, 15, false);
        assert!(restored.layers.is_empty(), "{:?}", restored.layers);
        for sha in ["", "sha256:", "sha256:../../x", "md5:aa", &"a".repeat(71)] {
            let cache = label(json!({"l": layer("cache", sha)}));
            assert!(run(None, Some(cache), 15, false).layers.is_empty(), "{sha}");
        }
        let odd =
            json!({"l": {"launch": true, "data": [1, 2]}, "m": {"launch": true, "data": null}});
        let restored = run(Some(label(odd)), None, 15, false);
        assert!(
            restored.layers.iter().all(|layer| layer.toml.is_empty()) && restored.layers.len() == 2
        );
    }
}
