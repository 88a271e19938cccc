//! What an image runs on, and whether a module runs there too.
//!
//! Follows the target sections of the Buildpack and Platform API: labels of the image first, then
//! its `/etc/os-release`. Must never read an image: both texts are handed over.

use cofferdam_cnb::{DISTRO_NAME, DISTRO_VERSION, Descriptor, Target, TargetDistro, exit};
use serde_json::Value;

/// What an image runs on; an empty field is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageTarget {
    /// `linux`.
    pub os: String,
    /// `amd64`.
    pub arch: String,
    /// `v8`.
    pub variant: String,
    /// `debian`.
    pub distro_name: String,
    /// `12`.
    pub distro_version: String,
}

/// An image whose platform is unknown.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A key is absent or not text.
    #[error("image config: {0}: is missing or not text")]
    Missing(&'static str),
}

impl TargetError {
    /// Exit code of the phase that needs the target: detection.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        i32::from(exit::DETECT)
    }
}

/// The target of an image config (`os`, `architecture`, `variant`, labels), with the text of the
/// image's `/etc/os-release` for images without labels.
///
/// # Errors
/// The config has no `os` or `architecture`.
pub fn target_of(config: &Value, os_release: Option<&str>) -> Result<ImageTarget, TargetError> {
    let text = |key: &'static str| {
        let text = config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or(TargetError::Missing(key))
    };
    let label = |name: &str| {
        let labels = config.get("config").and_then(|config| config.get("Labels"));
        labels.and_then(|labels| labels.get(name)).and_then(Value::as_str).map(str::to_owned)
    };
    let (os, arch) = (text("os")?, text("architecture")?);
    let variant = config.get("variant").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (distro_name, distro_version) = match (label(DISTRO_NAME), label(DISTRO_VERSION)) {
        (None, None) => {
            let release = os_release.unwrap_or_default();
            (release_value(release, "ID"), release_value(release, "VERSION_ID"))
        }
        (name, version) => (name.unwrap_or_default(), version.unwrap_or_default()),
    };
    Ok(ImageTarget { os, arch, variant, distro_name, distro_version })
}

/// A value of `/etc/os-release`, without its quotes; empty when it is not there.
fn release_value(text: &str, key: &str) -> String {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

/// Whether a module may run on an image. A module without targets has those of its stacks, or runs
/// on any linux.
#[must_use]
pub fn fits(module: &Descriptor, target: &ImageTarget) -> bool {
    if !module.targets.is_empty() {
        return module.targets.iter().any(|declared| matches(declared, target));
    }
    let inferred = inferred(module);
    inferred.iter().any(|declared| matches(declared, target))
}

fn inferred(module: &Descriptor) -> Vec<Target> {
    let bionic = || Target {
        os: "linux".to_owned(),
        arch: "amd64".to_owned(),
        variant: String::new(),
        distros: vec![TargetDistro { name: "ubuntu".to_owned(), version: "18.04".to_owned() }],
    };
    let bionic_counts = module.api.at_least(10) || module.stacks.len() == 1;
    let of_stack = |stack: &cofferdam_cnb::Stack| match stack.id.as_str() {
        "io.buildpacks.stacks.bionic" if bionic_counts => Some(bionic()),
        "*" => Some(Target::default()),
        _ => None,
    };
    let targets: Vec<Target> = module.stacks.iter().filter_map(of_stack).collect();
    if targets.is_empty() {
        return vec![Target { os: "linux".to_owned(), ..Target::default() }];
    }
    targets
}

fn matches(declared: &Target, target: &ImageTarget) -> bool {
    let distro = |distro: &TargetDistro| {
        same(&distro.name, &target.distro_name) && same(&distro.version, &target.distro_version)
    };
    let image_has_distro = !(target.distro_name.is_empty() && target.distro_version.is_empty());
    same(&declared.os, &target.os)
        && same(&declared.arch, &target.arch)
        && same(&declared.variant, &target.variant)
        && (declared.distros.is_empty()
            || (image_has_distro && declared.distros.iter().any(distro)))
}

/// Whether two values are equal or one is unknown.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one.is_empty() || other.is_empty() || one == other
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_cnb::Kind;
    use serde_json::json;

    use super::*;

    fn image(arch: &str, distro: &str, version: &str) -> ImageTarget {
        let labels = json!({DISTRO_NAME: distro, DISTRO_VERSION: version});
        let config = json!({"os": "linux", "architecture": arch, "config": {"Labels": labels}});
        target_of(&config, None).unwrap()
    }

    fn module(api: &str, rest: &str) -> Descriptor {
        let text = format!("api = \"{api}\"\n[buildpack]\nid = \"a/b\"\nversion = \"1\"\n{rest}");
        Descriptor::parse(Kind::Buildpack, "buildpack.toml", text.as_bytes()).unwrap()
    }

    #[test]
    fn labels_come_before_os_release() {
        let release = "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\nID_LIKE=x\n";
        let bare = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
        let target = target_of(&bare, Some(release)).unwrap();
        assert_eq!((target.distro_name.as_str(), target.distro_version.as_str()), ("debian", "12"));
        assert_eq!(target.variant, "v8");
        let labelled = json!({"os": "linux", "architecture": "arm64",
            "config": {"Labels": {DISTRO_NAME: "ubuntu"}}});
        let target = target_of(&labelled, Some(release)).unwrap();
        assert_eq!((target.distro_name.as_str(), target.distro_version.as_str()), ("ubuntu", ""));
        let none = target_of(&bare, None).unwrap();
        assert!(none.distro_name.is_empty());
    }

    #[test]
    fn odd_configs_are_errors_or_unknown() {
        for config in [json!(null), json!([]), json!({"os": 1}), json!({"os": "linux"})] {
            assert!(target_of(&config, None).is_err(), "{config}");
        }
        let odd = json!({"os": "linux", "architecture": "amd64", "config": {"Labels": [1]}});
        assert!(target_of(&odd, Some("ID")).unwrap().distro_name.is_empty());
    }

    #[test]
    fn declared_targets_decide() {
        let two = "[[targets]]\nos = \"linux\"\narch = \"arm64\"\n[[targets]]\narch = \"amd64\"\n\
            [[targets.distros]]\nname = \"ubuntu\"\nversion = \"24.04\"\n[[targets.distros]]\nname = \"debian\"\n";
        let two = module("0.10", two);
        assert!(fits(&two, &image("arm64", "", "")));
        assert!(fits(&two, &image("amd64", "debian", "7")));
        assert!(fits(&two, &image("amd64", "ubuntu", "24.04")));
        assert!(!fits(&two, &image("amd64", "ubuntu", "22.04")));
        assert!(!fits(&two, &image("amd64", "", "")), "a distro is asked for and unknown");
        assert!(!fits(&two, &image("s390x", "debian", "7")));
    }

    #[test]
    fn variants_are_wildcards_when_unknown() {
        let module =
            module("0.10", "[[targets]]\nos = \"linux\"\narch = \"arm64\"\nvariant = \"v8\"\n");
        let mut target = image("arm64", "", "");
        assert!(fits(&module, &target));
        target.variant = "v7".to_owned();
        assert!(!fits(&module, &target));
    }

    #[test]
    fn stacks_are_targets_of_modules_without() {
        let bionic = "[[stacks]]\nid = \"io.buildpacks.stacks.bionic\"\n";
        let other = "[[stacks]]\nid = \"other\"\n";
        let focal = image("amd64", "ubuntu", "20.04");
        let is_bionic = image("amd64", "ubuntu", "18.04");
        assert!(fits(&module("0.9", bionic), &is_bionic));
        assert!(!fits(&module("0.9", bionic), &focal));
        let both = format!("{bionic}{other}");
        assert!(fits(&module("0.9", &both), &focal), "before 0.10 only as the sole stack");
        assert!(!fits(&module("0.10", &both), &focal));
        let any = "[[stacks]]\nid = \"*\"\n";
        assert!(fits(&module("0.9", any), &ImageTarget { os: "windows".into(), ..focal.clone() }));
        assert!(fits(&module("0.10", ""), &focal));
        assert!(!fits(&module("0.10", other), &ImageTarget { os: "windows".into(), ..focal }));
    }
}
