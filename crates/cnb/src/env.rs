//! Environments of buildpacks and processes: what files and layers make of variables.
//!
//! Names and bytes go in, variables come out; whoever calls has read the files, with bounds. The rules
//! are those of the Buildpack specification, "Environment variable modification rules". A name that no
//! shell could use, or a value with a NUL byte, never gets into an environment.

use std::collections::BTreeMap;

/// Variables that are lists of paths: the platform's value goes before what is there.
const PATH_LIKE: [&str; 5] =
    ["PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH"];

/// Variables, ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env(BTreeMap<String, String>);

/// What a file without a suffix means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvDefault {
    /// Its value replaces another: files of layers.
    Override,
    /// Its value is for variables that have none: files of an operator (`build-config`).
    Default,
}

/// When an environment is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// By buildpacks that build later.
    Build,
    /// By the image's processes.
    Launch,
}

impl Env {
    /// Without variables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A variable's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets a variable. Nothing happens when no process could be given it: the name is empty or has
    /// `=` or NUL, or the value has NUL.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
            self.0.insert(name, value);
        }
    }

    /// Removes a variable.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// Names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `NAME=value`, ordered by name: the form images and processes are given.
    pub fn pairs(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, value)| format!("{name}={value}"))
    }

    /// Puts `value` before what the variable has.
    fn prepend(&mut self, name: &str, value: &str, delimiter: &str) {
        let old = self.get(name).unwrap_or_default();
        let new =
            if old.is_empty() { value.to_owned() } else { format!("{value}{delimiter}{old}") };
        self.set(name, new);
    }

    /// Puts `value` after what the variable has.
    fn append(&mut self, name: &str, value: &str, delimiter: &str) {
        let old = self.get(name).unwrap_or_default();
        let new =
            if old.is_empty() { value.to_owned() } else { format!("{old}{delimiter}{value}") };
        self.set(name, new);
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut env = Self::new();
        pairs.into_iter().for_each(|(name, value)| env.set(name, value));
        env
    }
}

/// Applies the files of one directory (`env`, `env.build`, `env.launch`, …), by name.
///
/// The suffix says what happens: `append`, `prepend`, `override`, `default`; `delim` has the delimiter
/// of the first two. Files with other suffixes and names that no variable can have are ignored, and
/// so are values with NUL. Bytes that are not UTF-8 become replacement characters.
pub fn apply_env_dir(env: &mut Env, files: &BTreeMap<String, Vec<u8>>, default: EnvDefault) {
    let text = |bytes: &[u8]| {
        let fits = !bytes.contains(&0);
        fits.then(|| String::from_utf8_lossy(bytes).into_owned())
    };
    for (file, bytes) in files {
        let (name, suffix) = match file.split_once('.') {
            Some((name, suffix)) => (name, suffix),
            None if default == EnvDefault::Override => (file.as_str(), "override"),
            None => (file.as_str(), "default"),
        };
        let Some(value) = text(bytes).filter(|_| is_variable(name)) else { continue };
        let delimiter = || {
            files.get(&format!("{name}.delim")).and_then(|bytes| text(bytes)).unwrap_or_default()
        };
        match suffix {
            "append" => env.append(name, &value, &delimiter()),
            "prepend" => env.prepend(name, &value, &delimiter()),
            "override" => env.set(name, value),
            "default" if env.get(name).is_none_or(str::is_empty) => env.set(name, value),
            _ => {}
        }
    }
}

/// Applies the directories of one layer: those of `bin`, `lib`, `include` and `pkgconfig` that are
/// `present` go before what their variables have.
pub fn apply_layer_roots(env: &mut Env, layer_root: &str, present: &[&str], phase: Phase) {
    let variables: [(&str, &[&str]); 4] = match phase {
        Phase::Build => [
            ("bin", &["PATH"]),
            ("lib", &["LD_LIBRARY_PATH", "LIBRARY_PATH"]),
            ("include", &["CPATH"]),
            ("pkgconfig", &["PKG_CONFIG_PATH"]),
        ],
        Phase::Launch => [
            ("bin", &["PATH"]),
            ("lib", &["LD_LIBRARY_PATH"]),
            ("include", &[]),
            ("pkgconfig", &[]),
        ],
    };
    for (directory, names) in variables {
        if present.contains(&directory) {
            let path = format!("{layer_root}/{directory}");
            names.iter().for_each(|name| env.prepend(name, &path, ":"));
        }
    }
}

/// Applies the users' variables: lists of paths go before what is there, others replace it. An
/// empty list of paths changes nothing: an empty element would mean the working directory.
pub fn platform_env(env: &mut Env, vars: &BTreeMap<String, String>) {
    for (name, value) in vars {
        if !PATH_LIKE.contains(&name.as_str()) {
            env.set(name, value);
        } else if !value.is_empty() {
            env.prepend(name, value, ":");
        }
    }
}

/// Whether a shell could name a variable so.
fn is_variable(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn applied(start: &[(&str, &str)], dir: &[(&str, &str)], default: EnvDefault) -> Vec<String> {
        let mut env: Env = start.iter().copied().collect();
        apply_env_dir(&mut env, &files(dir), default);
        env.pairs().collect()
    }

    #[test]
    fn suffixes_say_what_happens() {
        let layers = EnvDefault::Override;
        let old = [("A", "old")];
        assert_eq!(applied(&old, &[("A.append", "x")], layers), ["A=oldx"]);
        assert_eq!(applied(&old, &[("A.append", "x"), ("A.delim", ":")], layers), ["A=old:x"]);
        assert_eq!(applied(&[], &[("A.append", "x"), ("A.delim", ":")], layers), ["A=x"]);
        assert_eq!(applied(&[("A", "")], &[("A.prepend", "x"), ("A.delim", ":")], layers), ["A=x"]);
        assert_eq!(applied(&old, &[("A.prepend", "x"), ("A.delim", ", ")], layers), ["A=x, old"]);
        assert_eq!(applied(&old, &[("A.override", "x\n")], layers), ["A=x\n"]);
        assert_eq!(applied(&old, &[("A.default", "x")], layers), ["A=old"]);
        assert_eq!(applied(&[("A", "")], &[("A.default", "x")], layers), ["A=x"]);
        assert_eq!(applied(&old, &[("A", "x")], layers), ["A=x"]);
        assert_eq!(applied(&old, &[("A", "x")], EnvDefault::Default), ["A=old"]);
        assert_eq!(applied(&[], &[("A", "x")], EnvDefault::Default), ["A=x"]);
    }

    #[test]
    fn files_count_in_the_order_of_their_bytes() {
        let dir = [("A.default", "d"), ("A.append", "a"), ("A.prepend", "p"), ("A.delim", "-")];
        assert_eq!(applied(&[], &dir, EnvDefault::Override), ["A=p-a"]);
        let dir = [("A.append", "a"), ("A.override", "o"), ("A.prepend", "p")];
        assert_eq!(applied(&[("A", "x")], &dir, EnvDefault::Override), ["A=po"]);
        let dir = [("A", "plain"), ("A.append", "+")];
        assert_eq!(applied(&[], &dir, EnvDefault::Override), ["A=plain+"]);
    }

    #[test]
    fn what_cannot_be_a_variable_is_ignored() {
        let dir = [
            ("A.other", "x"),
            ("A.append.bak", "x"),
            (".append", "x"),
            ("", "x"),
            ("A-B", "x"),
            ("1A", "x"),
            ("A=B", "x"),
            ("A\u{1b}[2J", "x"),
            ("É", "x"),
            ("NUL", "x\0y"),
            ("B.append", "x"),
            ("B.delim", "\0"),
            ("_ok1", "x"),
        ];
        assert_eq!(applied(&[("B", "b")], &dir, EnvDefault::Override), ["B=bx", "_ok1=x"]);
        let mut env = Env::new();
        let bytes = BTreeMap::from([("A".to_owned(), vec![b'a', 0xff])]);
        apply_env_dir(&mut env, &bytes, EnvDefault::Override);
        assert_eq!(env.get("A"), Some("a\u{fffd}"));
        env.set("A=B", "x");
        env.set("", "x");
        env.set("C", "\0");
        assert_eq!(env.iter().count(), 1);
    }

    #[test]
    fn layers_go_before_what_is_there() {
        let all = ["bin", "lib", "include", "pkgconfig", "env"];
        let mut env: Env = [("PATH", "/bin"), ("CPATH", "")].into_iter().collect();
        apply_layer_roots(&mut env, "/layers/a/x", &all, Phase::Build);
        let expected = [
            "CPATH=/layers/a/x/include",
            "LD_LIBRARY_PATH=/layers/a/x/lib",
            "LIBRARY_PATH=/layers/a/x/lib",
            "PATH=/layers/a/x/bin:/bin",
            "PKG_CONFIG_PATH=/layers/a/x/pkgconfig",
        ];
        assert!(env.pairs().eq(expected));
        let mut env: Env = [("PATH", "/bin")].into_iter().collect();
        apply_layer_roots(&mut env, "/layers/a/x", &all, Phase::Launch);
        apply_layer_roots(&mut env, "/layers/a/y", &["bin"], Phase::Launch);
        let expected =
            ["LD_LIBRARY_PATH=/layers/a/x/lib", "PATH=/layers/a/y/bin:/layers/a/x/bin:/bin"];
        assert!(env.pairs().eq(expected));
    }

    #[test]
    fn users_variables_replace_or_go_before() {
        let mut env: Env =
            [("PATH", "/bin"), ("HOME", "/root"), ("CPATH", "/c")].into_iter().collect();
        let vars =
            [("PATH", "/mine"), ("HOME", "/h"), ("CPATH", ""), ("a.b", "c"), ("LIBRARY_PATH", "l")];
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        platform_env(&mut env, &vars.collect());
        assert!(env.pairs().eq([
            "CPATH=/c",
            "HOME=/h",
            "LIBRARY_PATH=l",
            "PATH=/mine:/bin",
            "a.b=c"
        ]));
    }
}
