//! Platforms in text and in normal form.
//!
//! Many spellings mean one platform (`x86_64` and `amd64`, `arm64` and `arm64/v8`). Cache keys and
//! image selection compare normal forms only, as containerd's platform rules define them. Text is
//! `os[(version)]/architecture[/variant]`, or one word that is either of the first two.

use cofferdam_wire::pb;

const KNOWN_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];

const KNOWN_ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];

/// Longest platform text that is looked at; real ones have at most a few dozen characters.
const MAX_LENGTH: usize = 256;

/// Text that does not name a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePlatformError {
    /// A component is empty or has characters that none may have.
    #[error(
        "{component:?} is an invalid component of {text:?}: platform specifier component must \
         match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The whole.
        text: String,
        /// The component.
        component: String,
    },
    /// Something else is wrong with it.
    #[error("invalid platform specifier {text:?}: {reason}")]
    Specifier {
        /// The whole.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// The platform of this machine, in normal form.
#[must_use]
pub fn default_platform() -> pb::Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", ""),
        "x86" => ("386", ""),
        "arm" => ("arm", "v7"),
        "loongarch64" => ("loong64", ""),
        "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
        "powerpc64" => ("ppc64", ""),
        other => (other, ""),
    };
    pb::Platform {
        OS: "linux".to_owned(),
        Architecture: architecture.to_owned(),
        Variant: variant.to_owned(),
        ..Default::default()
    }
}

/// The normal form of `platform`. An empty system means Linux; features are sorted.
#[must_use]
pub fn normalize_platform(platform: &pb::Platform) -> pb::Platform {
    let mut features = platform.OSFeatures.clone();
    features.sort_unstable();
    features.dedup();
    let (architecture, variant) = normal_architecture(&platform.Architecture, &platform.Variant);
    pb::Platform {
        OS: normal_system(&platform.OS),
        Architecture: architecture,
        Variant: variant,
        OSVersion: platform.OSVersion.clone(),
        OSFeatures: features,
        ..Default::default()
    }
}

/// `os/architecture[/variant]` of a platform, without version and features.
#[must_use]
pub fn platform_string(platform: &pb::Platform) -> String {
    [&platform.OS, &platform.Architecture, &platform.Variant]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("/")
}

/// A platform with its version, `os(version)/architecture[/variant]`: what tells apart the images of one build.
#[must_use]
pub fn platform_id(platform: &pb::Platform) -> String {
    if platform.OSVersion.is_empty() {
        return platform_string(platform);
    }
    let system = format!("{}({})", platform.OS, platform.OSVersion);
    platform_string(&pb::Platform { OS: system, ..platform.clone() })
}

/// Parses a platform and brings it to normal form. A missing part is taken from this machine.
///
/// # Errors
/// Wildcards, empty or odd components, more than three of them, an unknown single word.
pub fn parse_platform(text: &str) -> Result<pb::Platform, ParsePlatformError> {
    let shown = || -> String { text.chars().take(MAX_LENGTH).collect() };
    let error = |reason| ParsePlatformError::Specifier { text: shown(), reason };
    if text.len() > MAX_LENGTH {
        return Err(error("too long"));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let (system, version) = split_version(parts[0]).ok_or_else(|| error("bad version"))?;
    let mut components = std::iter::once(system).chain(parts[1..].iter().copied());
    if let Some(component) = components.find(|component| !is_component(component)) {
        let component = component.to_owned();
        return Err(ParsePlatformError::Component { text: shown(), component });
    }
    let local = default_platform();
    let (system, architecture, variant) = match parts.as_slice() {
        [_] if KNOWN_SYSTEMS.contains(&normal_system(system).as_str()) => {
            (system.to_owned(), local.Architecture, local.Variant)
        }
        [_] => {
            let (architecture, variant) = normal_architecture(system, "");
            if !KNOWN_ARCHITECTURES.contains(&architecture.as_str()) {
                return Err(error("unknown operating system or architecture"));
            }
            (local.OS, architecture, variant)
        }
        [_, architecture] => (system.to_owned(), (*architecture).to_owned(), String::new()),
        [_, architecture, variant] => {
            (system.to_owned(), (*architecture).to_owned(), (*variant).to_owned())
        }
        _ => return Err(error("more than three components")),
    };
    Ok(normalize_platform(&pb::Platform {
        OS: system,
        Architecture: architecture,
        Variant: variant,
        OSVersion: version.to_owned(),
        ..Default::default()
    }))
}

/// Whether `text` can be one component of a platform. Such text is also safe as a file name.
pub(crate) fn is_component(text: &str) -> bool {
    text.len() <= MAX_LENGTH
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn split_version(system: &str) -> Option<(&str, &str)> {
    match system.split_once('(') {
        None => Some((system, "")),
        Some((name, rest)) => {
            let version = rest.strip_suffix(')')?;
            let valid = !version.contains(['(', ')', '+']);
            valid.then_some((name, version))
        }
    }
}

fn normal_system(system: &str) -> String {
    match system.to_ascii_lowercase().as_str() {
        "" => "linux".to_owned(),
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spellings_of_one_platform_agree() {
        for (text, normal) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/AMD64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v9.0", "linux/arm64/v9"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("macos/arm64", "darwin/arm64"),
            ("linux/i386", "linux/386"),
            ("windows(10.0.17763)/amd64", "windows/amd64"),
            ("unknown/unknown", "unknown/unknown"),
            ("riscv64", "linux/riscv64"),
        ] {
            let platform = parse_platform(text).unwrap();
            assert_eq!(platform_string(&platform), normal, "{text}");
            assert_eq!(normalize_platform(&platform), platform, "{text} is not stable");
        }
        assert_eq!(parse_platform("linux").unwrap(), default_platform());
        assert_eq!(parse_platform("windows(10.0)/amd64").unwrap().OSVersion, "10.0");
    }

    #[test]
    fn hostile_texts_are_refused() {
        for text in [
            "",
            "/",
            "linux/",
            "/amd64",
            "linux//v8",
            "linux/*",
            "a/b/c/d",
            "li nux/amd64",
            "linux/amd64\n",
            "windows(10/amd64",
            "windows(1)(2)/amd64",
            "nosuchthing",
            "../x",
            "linux/ämd64",
            &"x".repeat(5000),
        ] {
            assert!(parse_platform(text).is_err(), "{text:?} was accepted");
        }
    }
}
