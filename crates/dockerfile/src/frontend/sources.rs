//! Source ops with the attributes that clients of BuildKit give them.
//!
//! One function per kind of source. Identifiers and attribute names are the wire's; nothing here may
//! look at what a source holds.

use cofferdam_wire::pb;

use super::attrs::ResolveMode;
use super::git::GitAddress;
use super::reference::Reference;
use crate::convert::plan::Source;
use crate::paths;

/// Secrets that git sources may ask the session for.
const GIT_TOKEN_SECRET: &str = "GIT_AUTH_TOKEN";
const GIT_HEADER_SECRET: &str = "GIT_AUTH_HEADER";

/// A directory of the client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Local {
    /// Name the client shares it under.
    pub(crate) name: String,
    /// Session that shares it.
    pub(crate) session: String,
    /// Patterns of `.dockerignore`.
    pub(crate) excludes: Vec<String>,
    /// What earlier transfers of the same directory are found by.
    pub(crate) key_hint: String,
    /// Files are few and always sent anew.
    pub(crate) fresh: bool,
}

impl Local {
    /// The source, limited to `follow` and what its symbolic links lead to; nothing given means all.
    pub(crate) fn source(&self, follow: &[String]) -> Source {
        let mut source = Source::new(format!("local://{}", self.name), "source.local");
        if !self.session.is_empty() {
            source.set("local.session", &self.session, Some("source.local.sessionid"));
        }
        if !follow.is_empty() {
            source.set("local.followpaths", json(follow), Some("source.local.followpaths"));
        }
        if !self.excludes.is_empty() {
            let list = json(&self.excludes);
            source.set("local.excludepatterns", list, Some("source.local.excludepatterns"));
        }
        source.set("local.sharedkeyhint", &self.key_hint, Some("source.local.sharedkeyhint"));
        if self.fresh {
            source.set("local.differ", "none", None);
        }
        source
    }
}

fn json(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

/// An image in a registry.
pub(crate) fn image(
    reference: &Reference,
    platform: Option<&pb::Platform>,
    mode: ResolveMode,
) -> Source {
    let mut source = Source::new(format!("docker-image://{reference}"), "source.image");
    source.platform = platform.cloned();
    match mode {
        ResolveMode::Default => {}
        ResolveMode::Pull => {
            source.set("image.resolvemode", mode.text(), Some("source.image.resolvemode"));
        }
        ResolveMode::Local => source.set("image.resolvemode", mode.text(), None),
    }
    source
}

/// An image in an OCI layout of the client.
pub(crate) fn oci_layout(
    reference: &Reference,
    session: &str,
    store: &str,
    platform: Option<&pb::Platform>,
) -> Source {
    let mut source = Source::new(format!("oci-layout://{reference}"), "source.ocilayout");
    source.set("oci.session", session, None);
    source.set("oci.store", store, None);
    source.platform = platform.cloned();
    source
}

/// One file from the web.
pub(crate) fn http(url: &str, filename: &str, checksum: Option<&str>) -> Source {
    let mut source = Source::new(url, "source.http");
    source.set("http.filename", filename, None);
    if let Some(checksum) = checksum {
        source.set("http.checksum", checksum, Some("source.http.checksum"));
    }
    source
}

/// The name a downloaded file gets: the last part of the address.
pub(crate) fn http_filename(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    let path = paths::percent_decode(path).unwrap_or_default();
    match paths::base(&path) {
        "." | "/" | ".." => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

/// A git repository.
pub(crate) fn git(address: &GitAddress, keep_git_dir: bool, checksum: &str) -> Source {
    let mut identifier = format!("git://{}", address.place);
    if !address.reference.is_empty() || !address.subdir.is_empty() {
        identifier.push('#');
        identifier.push_str(&address.reference);
        if !address.subdir.is_empty() {
            identifier.push(':');
            identifier.push_str(&address.subdir);
        }
    }
    let mut source = Source::new(identifier, "source.git");
    source.set("git.fullurl", &address.remote, Some("source.git.fullurl"));
    source.set("git.authtokensecret", GIT_TOKEN_SECRET, None);
    source.set("git.authheadersecret", GIT_HEADER_SECRET, None);
    if keep_git_dir {
        source.set("git.keepgitdir", "true", Some("source.git.keepgitdir"));
    }
    if address.ssh {
        source.set("git.mountsshsock", "default", Some("source.git.mountsshsock"));
    }
    if !checksum.is_empty() {
        source.set("git.checksum", checksum, Some("source.git.checksum"));
    }
    if address.submodules == Some(false) {
        source.set("git.skipsubmodules", "true", Some("source.git.skipsubmodules"));
    }
    if !address.mtime.is_empty() {
        source.set("git.mtime", &address.mtime, Some("source.git.mtime"));
    }
    if address.fetch_by_commit {
        source.set("git.fetchbycommit", "true", Some("source.git.fetchbycommit"));
    }
    source
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn locals_carry_lists_as_json() {
        let local = Local {
            name: "context".to_owned(),
            session: "s".to_owned(),
            excludes: vec!["a \"b\"".to_owned()],
            key_hint: "context".to_owned(),
            fresh: true,
        };
        let source = local.source(&["x".to_owned(), "y".to_owned()]);
        assert_eq!(source.identifier, "local://context");
        assert_eq!(source.attrs["local.followpaths"], r#"["x","y"]"#);
        assert_eq!(source.attrs["local.excludepatterns"], r#"["a \"b\""]"#);
        assert_eq!(source.attrs["local.differ"], "none");
    }

    #[test]
    fn names_of_downloads() {
        for (url, name) in [
            ("https://x/a/b.tar?x=1#y", "b.tar"),
            ("https://x/a%20b", "a b"),
            ("https://x", "__unnamed__"),
            ("https://x/", "__unnamed__"),
            ("https://x/..", "__unnamed__"),
        ] {
            assert_eq!(http_filename(url), name, "{url}");
        }
    }

    #[test]
    fn git_identifiers_name_the_place() {
        let address = GitAddress::parse("git@github.com:a/b.git#v1:sub").unwrap().unwrap();
        let source = git(&address, true, "abc");
        assert_eq!(source.identifier, "git://github.com/a/b.git#v1:sub");
        assert_eq!(source.attrs["git.fullurl"], "git@github.com:a/b.git");
        assert_eq!(source.attrs["git.mountsshsock"], "default");
        assert_eq!(source.attrs["git.checksum"], "abc");
    }
}
