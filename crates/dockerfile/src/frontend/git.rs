//! Git addresses in the forms Dockerfiles and `docker build` accept.
//!
//! Follows the documentation of [build contexts](https://docs.docker.com/build/concepts/context/):
//! `https://host/path.git`, `git@host:path`, `ssh://`, `git://`, each with `?query` and `#ref:subdir`.
//! Only reads text: whether a repository exists is not known here.

use crate::scalar::parse_bool;

/// A git address with a query that does not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitError {
    /// `?tag=` and the like.
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// `?tag=a&tag=b`.
    #[error("query {0:?} has multiple values")]
    MultipleValues(String),
    /// Two ways to say the same thing disagree.
    #[error("{what} conflicts: {first:?} vs {second:?}")]
    Conflict {
        /// `ref` or `subdir`.
        what: &'static str,
        /// One value.
        first: String,
        /// The other one.
        second: String,
    },
    /// `?branch=…&tag=…`.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// A value that is not a boolean, or not one of two words.
    #[error("invalid {key} value: {value:?}")]
    Value {
        /// Key of the query.
        key: String,
        /// Its value.
        value: String,
    },
    /// A key nobody knows.
    #[error("unexpected query {0:?}")]
    UnexpectedQuery(String),
}

/// A git address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GitAddress {
    /// What to give to git: without query and fragment.
    pub(crate) remote: String,
    /// Host and path, equal for all ways to reach one repository.
    pub(crate) place: String,
    pub(crate) ssh: bool,
    pub(crate) reference: String,
    pub(crate) subdir: String,
    pub(crate) checksum: String,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) submodules: Option<bool>,
    pub(crate) mtime: String,
    pub(crate) fetch_by_commit: bool,
    /// `github.com/x/y`: could as well be a path.
    pub(crate) like_path: bool,
}

impl GitAddress {
    /// `None` when `text` is not a git address at all.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, GitError>> {
        let parts = Parts::parse(text)?;
        if matches!(parts.scheme.as_str(), "http" | "https")
            && !parts.path.ends_with(".git")
            && !parts.like_path
        {
            return None;
        }
        let (reference, subdir) = parts.fragment.split_once(':').unwrap_or((&parts.fragment, ""));
        let mut address = Self {
            place: format!("{}{}", parts.host, crate::paths::join("/", &parts.path)),
            ssh: parts.scheme == "ssh",
            reference: reference.to_owned(),
            subdir: crate::paths::join("/", subdir).trim_start_matches('/').to_owned(),
            like_path: parts.like_path,
            remote: parts.remote,
            ..Self::default()
        };
        Some(address.read_query(&parts.query).map(|()| address))
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let (key, value) = (key.into_owned(), value.into_owned());
            if !seen.insert(key.clone()) {
                return Err(GitError::MultipleValues(key));
            }
            let flag = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !flag {
                return Err(GitError::NoValue(key));
            }
            match key.as_str() {
                "ref" => agree("ref", &mut self.reference, value)?,
                "subdir" => agree("subdir", &mut self.subdir, value)?,
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                "checksum" | "commit" => self.checksum = value,
                "keep-git-dir" => self.keep_git_dir = Some(boolean(&key, value)?),
                "submodules" => self.submodules = Some(boolean(&key, value)?),
                "fetch-by-commit" => self.fetch_by_commit = boolean(&key, value)?,
                "mtime" if value == "checkout" || value == "commit" => self.mtime = value,
                "mtime" => return Err(GitError::Value { key, value }),
                _ => return Err(GitError::UnexpectedQuery(key)),
            }
        }
        match (tag, branch) {
            (Some(_), Some(_)) => Err(GitError::BranchAndTag),
            (Some(tag), None) => agree("ref", &mut self.reference, full_name("refs/tags/", tag)),
            (None, Some(branch)) => {
                agree("ref", &mut self.reference, full_name("refs/heads/", branch))
            }
            (None, None) => Ok(()),
        }
    }
}

/// A git address in its shortest form, without and with the directory in it: `remote#ref`,
/// `remote#ref:directory`. `None` for what is no git address.
#[must_use]
pub fn git_fragment(text: &str) -> Option<(String, String)> {
    let address = GitAddress::parse(text)?.ok()?;
    let mut plain = address.remote;
    if address.like_path
        && let Some((_, path)) = plain.split_once("://")
    {
        plain = path.to_owned();
    }
    let mut whole = plain.clone();
    if !address.reference.is_empty() {
        plain = format!("{plain}#{}", address.reference);
    }
    if !address.reference.is_empty() || !address.subdir.is_empty() {
        whole = format!("{whole}#{}", address.reference);
    }
    if !address.subdir.is_empty() {
        whole = format!("{whole}:{}", address.subdir);
    }
    Some((plain, whole))
}

fn agree(what: &'static str, known: &mut String, value: String) -> Result<(), GitError> {
    if !known.is_empty() && *known != value {
        return Err(GitError::Conflict { what, first: known.clone(), second: value });
    }
    *known = value;
    Ok(())
}

fn boolean(key: &str, value: String) -> Result<bool, GitError> {
    if value.is_empty() {
        return Ok(true);
    }
    parse_bool(&value).ok_or_else(|| GitError::Value { key: key.to_owned(), value })
}

fn full_name(prefix: &str, name: String) -> String {
    if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
}

/// An address cut at its separators.
struct Parts {
    scheme: String,
    host: String,
    path: String,
    query: String,
    fragment: String,
    remote: String,
    like_path: bool,
}

impl Parts {
    fn parse(text: &str) -> Option<Self> {
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) || text.starts_with("./") {
            return None;
        }
        if text.starts_with("github.com/") {
            let mut parts = Self::parse_url("https", text)?;
            parts.like_path = true;
            return Some(parts);
        }
        match text.split_once("://") {
            Some((scheme, rest))
                if !scheme.is_empty()
                    && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
            {
                let scheme = scheme.to_ascii_lowercase();
                let known = matches!(scheme.as_str(), "http" | "https" | "ssh" | "git");
                if known { Self::parse_url(&scheme, rest) } else { None }
            }
            _ => Self::parse_scp(text),
        }
    }

    fn parse_url(scheme: &str, rest: &str) -> Option<Self> {
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        Some(Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            path: crate::paths::percent_decode(path)?,
            query: query.to_owned(),
            fragment: crate::paths::percent_decode(fragment)?,
            remote: format!("{scheme}://{rest}"),
            like_path: false,
        })
    }

    /// `user@host:path`.
    fn parse_scp(text: &str) -> Option<Self> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, place) = rest.split_once('@')?;
        let (host, path) = place.split_once(':')?;
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let valid = !user.is_empty()
            && user.bytes().all(word)
            && !host.is_empty()
            && host.bytes().all(name);
        valid.then(|| Self {
            scheme: "ssh".to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            fragment: fragment.to_owned(),
            remote: rest.to_owned(),
            like_path: false,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(text: &str) -> GitAddress {
        GitAddress::parse(text).unwrap().unwrap()
    }

    #[test]
    fn the_usual_forms_are_read() {
        let address = parse("https://user@github.com/foo/bar.git#main:sub/../dir");
        assert_eq!(address.remote, "https://user@github.com/foo/bar.git");
        assert_eq!(address.place, "github.com/foo/bar.git");
        assert_eq!((address.reference.as_str(), address.subdir.as_str()), ("main", "dir"));
        let address = parse("git@github.com:foo/bar.git?tag=v1&keep-git-dir");
        assert_eq!(address.remote, "git@github.com:foo/bar.git");
        assert_eq!(address.place, "github.com/foo/bar.git");
        assert!(address.ssh);
        assert_eq!(address.reference, "refs/tags/v1");
        assert_eq!(address.keep_git_dir, Some(true));
        let address = parse("github.com/foo/bar");
        assert!(address.like_path);
        assert_eq!(address.remote, "https://github.com/foo/bar");
        let address = parse("https://x/y.git?ref=a&commit=abc&submodules=false&mtime=commit");
        assert_eq!(address.checksum, "abc");
        assert_eq!(address.submodules, Some(false));
        assert_eq!(address.mtime, "commit");
    }

    #[test]
    fn other_addresses_are_not_git() {
        for text in [
            "",
            ".",
            "./x.git",
            "../x.git",
            "/x",
            "a/b",
            "https://x/y.tar.gz",
            "http://x/",
            "ftp://x/y.git",
            "docker-image://x",
            "https://x/y.git\n",
            "file",
            "a:b",
            "https://x/%zz.git",
        ] {
            assert!(GitAddress::parse(text).is_none(), "{text:?} was accepted");
        }
    }

    #[test]
    fn short_forms_name_reference_and_directory() {
        let both = |plain: &str, whole: &str| Some((plain.to_owned(), whole.to_owned()));
        for (text, short) in [
            ("https://x/y.git", both("https://x/y.git", "https://x/y.git")),
            ("https://x/y.git#v1:a/../b", both("https://x/y.git#v1", "https://x/y.git#v1:b")),
            ("https://x/y.git?subdir=d", both("https://x/y.git", "https://x/y.git#:d")),
            ("git@h:y.git?branch=b", both("git@h:y.git#refs/heads/b", "git@h:y.git#refs/heads/b")),
            ("github.com/a/b#c", both("github.com/a/b#c", "github.com/a/b#c")),
            ("https://x/y", None),
        ] {
            assert_eq!(git_fragment(text), short, "{text}");
        }
    }

    #[test]
    fn contradictions_are_errors() {
        for query in [
            "?tag=a&tag=b",
            "?tag=",
            "?x=y",
            "?tag=a&branch=b",
            "?ref=a#b",
            "?subdir=a#r:b",
            "?submodules=maybe",
            "?mtime=now",
            "?fetch-by-commit=2",
        ] {
            let text = format!("https://x/y.git{query}");
            assert!(GitAddress::parse(&text).unwrap().is_err(), "{text:?} was accepted");
        }
    }
}
