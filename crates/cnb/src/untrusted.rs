//! One door to every parser here for bytes of strangers, for fuzzing: none of them may panic, and no
//! error may bring a terminal's control characters along.

use serde::de::DeserializeOwned;

use crate::{
    ApiVersion, BUILDPACK_APIS, BuildMetadata, BuildPlan, BuilderMetadata, BuildpackageMetadata,
    CacheMetadata, Descriptor, Env, EnvDefault, Id, Kind, LaunchFile, LayerFile, LayerTar,
    LifecycleMetadata, MetadataFile, ModuleLayers, OrderFile, PlanFile, SbomFormat, StoreFile,
    SystemOrder, UnmetFile, Version, apply_env_dir, layer_name, parse_json, parse_toml,
};

/// Runs every parser on `bytes`.
pub fn exercise(bytes: &[u8]) {
    files(bytes);
    let text = String::from_utf8_lossy(bytes);
    labels(&text);
    names(&text);
    env(&text, bytes);
    let mut layer = LayerTar::new(std::io::sink());
    let _ = layer.symlink(bytes, bytes, 0, 0, 0o777);
    let _ = layer.file(bytes, 1, u32::MAX, u32::MAX, bytes.len() as u64, &mut &*bytes);
    let _ = layer.finish();
}

fn files(bytes: &[u8]) {
    for minor in BUILDPACK_APIS {
        let api = ApiVersion::minor(minor);
        note(LaunchFile::read(api, "launch.toml", bytes));
        if let Some(layer) = toml::<LayerFile>(bytes) {
            note(layer.check(api, "layer.toml"));
        }
    }
    note(Descriptor::parse(Kind::Buildpack, "buildpack.toml", bytes));
    note(Descriptor::parse(Kind::Extension, "extension.toml", bytes));
    if let Some(plan) = toml::<BuildPlan>(bytes) {
        note(plan.check("plan.toml"));
    }
    if let Some(metadata) = toml::<MetadataFile>(bytes) {
        let _ = toml::to_string(&metadata);
    }
    toml::<PlanFile>(bytes);
    toml::<UnmetFile>(bytes);
    toml::<StoreFile>(bytes);
    toml::<OrderFile>(bytes);
}

fn labels(text: &str) {
    json::<BuilderMetadata>(text);
    json::<BuildpackageMetadata>(text);
    json::<ModuleLayers>(text);
    json::<LifecycleMetadata>(text);
    json::<BuildMetadata>(text);
    json::<CacheMetadata>(text);
    json::<SystemOrder>(text);
    json::<OrderFile>(text);
}

fn names(text: &str) {
    note(text.parse::<ApiVersion>());
    note(Id::parse(text));
    note(Version::parse(text));
    note(layer_name(text));
    if let Some((_, format)) = SbomFormat::from_file_name(text) {
        note(format.announced(&[text.to_owned()], text));
    }
}

fn env(text: &str, bytes: &[u8]) {
    let files = text.lines().map(|name| (name.to_owned(), bytes.to_vec())).take(16).collect();
    let mut env = Env::new();
    apply_env_dir(&mut env, &files, EnvDefault::Override);
    apply_env_dir(&mut env, &files, EnvDefault::Default);
    for (name, value) in env.iter() {
        assert!(!name.contains(['=', '\0']) && !value.contains('\0'), "no variable: {name:?}");
    }
}

fn toml<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    note(parse_toml("file.toml", bytes))
}

fn json<T: DeserializeOwned>(text: &str) -> Option<T> {
    note(parse_json("label", text))
}

/// An error is one line that can be shown.
fn note<T, E: std::fmt::Display>(result: Result<T, E>) -> Option<T> {
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error.to_string(),
    };
    assert!(!error.contains(char::is_control), "cannot be shown: {error:?}");
    assert!(error.len() < 8 << 10, "too long: {} bytes", error.len());
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::MAX_FILE;

    /// On a stack of the usual size of threads: what is nested must be refused before it is deep.
    fn survives(bytes: Vec<u8>) {
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        thread.spawn(move || exercise(&bytes)).unwrap().join().unwrap();
    }

    #[test]
    fn nesting() {
        for depth in [100, 10_000, 300_000] {
            survives(format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)).into_bytes());
            survives(format!("a = {}", "{b=".repeat(depth)).into_bytes());
            survives(format!("{}a = 1", "a.".repeat(depth)).into_bytes());
            survives(format!("[{}a]", "a.".repeat(depth)).into_bytes());
            survives(format!("[metadata]\n{}a = 1", "a.".repeat(depth)).into_bytes());
            survives(format!("[[{}a]]", "or.".repeat(depth)).into_bytes());
            survives("[[or]]\n".repeat(depth).into_bytes());
            survives("[".repeat(depth).into_bytes());
            survives(r#"{"app":"#.repeat(depth).into_bytes());
            survives(format!(r#"{{"app":{}"#, "[".repeat(depth)).into_bytes());
        }
    }

    #[test]
    fn sizes() {
        let full = vec![b' '; MAX_FILE];
        assert!(parse_toml::<PlanFile>("f", &full).is_ok());
        let error = parse_toml::<PlanFile>("f", &vec![b' '; MAX_FILE + 1]).unwrap_err();
        assert_eq!(error.to_string(), "f: larger than 1048576 bytes");
        survives(vec![b'a'; MAX_FILE + 1]);
        survives(vec![0; MAX_FILE]);
        survives(vec![0xff; MAX_FILE]);
        survives(format!("\"{}\" = 1", "k".repeat(MAX_FILE - 10)).into_bytes());
        survives(format!("api = \"{}\"", "9".repeat(MAX_FILE - 20)).into_bytes());
        survives("[[processes]]\ntype='a'\ncommand=['a']\n".repeat(20_000).into_bytes());
    }

    #[test]
    fn wrong_types_and_numbers() {
        for key in [
            "api",
            "buildpack",
            "processes",
            "labels",
            "or",
            "types",
            "launch",
            "order",
            "metadata",
        ] {
            for value in [
                "1",
                "-9223372036854775809",
                "99999999999999999999999",
                "1e999",
                "nan",
                "true",
                "''",
                "[]",
                "{}",
                "[[]]",
                "[{}]",
                "[1, 'a']",
                "1979-05-27T07:32:00Z",
                "'\u{1b}[2J'",
                "\"\\u0000\"",
                "\"\\u001b]0;x\\u0007\"",
            ] {
                survives(format!("{key} = {value}\n").into_bytes());
                survives(format!("{{\"{key}\": {value}}}").into_bytes());
            }
        }
    }

    #[test]
    fn terminal_escapes_stay_out_of_errors() {
        for text in [
            "\u{1b}[2J",
            "a\u{1b}[2J = 1",
            "api = \"\u{1b}[2J\"",
            "api = \"\\u001b[2J\"",
            "api = '0.12'\n[buildpack]\nid = \"\\u001b[2J\"\nversion = '1'",
            "api = '0.12'\n[buildpack]\nid = 'a'\nversion = \"\\u001b[2J\\u202e\"",
            "[[processes]]\ntype = \"\\u001b[2J\"\ncommand = 'x'",
            "[[processes]]\ntype = 'a'\nworking-dir = \"\\u001b[2J\"\ncommand = 'x'",
            "[[requires]]\nname = \"\\u009b2J\"\nversion = 'x'",
            "{\"buildpacks\": \"\u{1b}[2J\"}",
            "{\"buildpacks\": \"\\u001b[2J\"}",
            "X\u{1b}[2J.append",
        ] {
            survives(text.as_bytes().to_vec());
        }
    }
}
