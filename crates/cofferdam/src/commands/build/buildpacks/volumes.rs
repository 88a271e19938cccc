//! `--volume`: what else is mounted where buildpacks run.
//!
//! Builders may be far away, and nothing a build does may change this machine: a directory of it is sent and read-only; what can be
//! written is a cache that stays in the builder.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use serde_json::{Value, json};

/// Places that buildpacks and the lifecycle use themselves.
const SENSITIVE: [&str; 4] = ["/cnb", "/layers", "/platform", "/workspace"];

/// What is mounted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Volumes {
    /// For the frontend.
    pub(super) mounts: Vec<Value>,
    /// Directories to offer, by the names the mounts have for them.
    pub(super) directories: Vec<(String, PathBuf)>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

/// Reads the flags; `workspace` is where the app is.
pub(super) fn volumes(texts: &[String], workspace: Option<&str>) -> anyhow::Result<Volumes> {
    let mut found = Volumes::default();
    for (number, text) in texts.iter().enumerate() {
        let mut parts = text.split(':');
        let (Some(source), Some(target), options, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            bail!("--volume {text:?}: use SOURCE:TARGET[:ro|rw]")
        };
        let readonly = match options {
            None | Some("ro") => true,
            Some("rw") => false,
            Some(other) => bail!("--volume {text:?}: option {other:?}: use ro or rw"),
        };
        ensure!(
            target.starts_with('/')
                && target.len() > 1
                && !target.split('/').any(|part| part == ".." || part == "."),
            "--volume {text:?}: the target is not an absolute path of a directory"
        );
        if let Some(place) =
            SENSITIVE.into_iter().chain(workspace).find(|place| is_below(target, place))
        {
            found.warnings.push(format!(
                "--volume {text:?} mounts onto {place}, which buildpacks use themselves: the build may behave in unexpected ways."
            ));
        }
        if is_name(source) {
            found.mounts.push(json!({ "cache": source, "target": target, "readonly": readonly }));
            continue;
        }
        ensure!(
            readonly,
            "--volume {text:?}: a directory of this machine cannot be written by a build; use a name instead \
             of a path for a cache that can, or leave out rw"
        );
        let path = PathBuf::from(source);
        ensure!(path.is_dir(), "--volume {text:?}: {source:?} is not a directory of this machine");
        let local = format!("volume-{number}");
        found.mounts.push(json!({ "local": local, "target": target, "readonly": true }));
        found.directories.push((local, path));
    }
    Ok(found)
}

fn is_below(target: &str, place: &str) -> bool {
    let place = place.trim_end_matches('/');
    target.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Docker's rule for what is a volume's name and not a path.
fn is_name(source: &str) -> bool {
    let mut bytes = source.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && source.len() <= 128
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(text: &str) -> anyhow::Result<Volumes> {
        volumes(&[text.to_owned()], Some("/app"))
    }

    #[test]
    fn directories_are_sent_and_names_are_caches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let found = of(&format!("{path}:/data")).unwrap();
        let mount = json!({ "local": "volume-0", "target": "/data", "readonly": true });
        assert_eq!(found.mounts, [mount]);
        assert_eq!(found.directories, [("volume-0".to_owned(), dir.path().to_owned())]);
        assert!(found.warnings.is_empty());
        let cache = of("m2-cache:/home/cnb/.m2:rw").unwrap();
        let mount = json!({ "cache": "m2-cache", "target": "/home/cnb/.m2", "readonly": false });
        assert_eq!((cache.mounts, cache.directories), (vec![mount], vec![]));
        let readonly = of("m2-cache:/x").unwrap();
        assert_eq!(readonly.mounts[0]["readonly"], true);
    }

    #[test]
    fn places_of_the_lifecycle_are_mentioned() {
        for target in
            ["/cnb", "/cnb/buildpacks/x", "/layers", "/workspace/sub", "/platform/env", "/app"]
        {
            assert_eq!(of(&format!("name:{target}")).unwrap().warnings.len(), 1, "{target}");
        }
        for target in ["/cnb2", "/application", "/data"] {
            assert!(of(&format!("name:{target}")).unwrap().warnings.is_empty(), "{target}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for text in [
            "",
            "x",
            "x:",
            "x:y",
            "x:/",
            "x:/a/../b",
            "x:/y:rw:z",
            "x:/y:zz",
            ":/x",
            "./no-such:/x",
            "/no/such/directory:/x",
            "/tmp:/x:rw",
            "/dev/null:/x",
        ] {
            let error = of(text).unwrap_err().to_string();
            assert!(error.contains("--volume"), "{text}: {error}");
        }
        assert!(of("/tmp:/x:rw").unwrap_err().to_string().contains("cannot be written"));
    }
}
