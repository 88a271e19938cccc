//! Addresses: `http(s)://` files and git repositories.
//!
//! An address is kept in records and printed, so it must never carry a password.

use std::fmt;

use cofferdam_digest::Digest;

use super::{Located, Locator, LocatorError};
use crate::text::short;

/// A file at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLocator {
    /// The address without its fragment.
    pub url: String,
    /// What the file has to be: `#sha256:<hex>`.
    pub checksum: Option<Digest>,
}

/// A directory of a git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitLocator {
    /// The repository, in a form that git understands.
    pub remote: String,
    /// Branch, tag or commit; the default branch, when missing.
    pub reference: Option<String>,
    /// Directory in it, relative; the root, when missing.
    pub directory: Option<String>,
}

impl fmt::Display for HttpLocator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.url)?;
        self.checksum.iter().try_for_each(|checksum| write!(formatter, "#{checksum}"))
    }
}

impl fmt::Display for GitLocator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { remote, reference, directory } = self;
        formatter.write_str(remote)?;
        match (reference, directory) {
            (None, None) => Ok(()),
            (Some(reference), None) => write!(formatter, "#{reference}"),
            (reference, Some(directory)) => {
                write!(formatter, "#{}:{directory}", reference.as_deref().unwrap_or_default())
            }
        }
    }
}

/// The address that `text` is, if it is one.
pub(super) fn parse(text: &str) -> Result<Option<Located>, LocatorError> {
    let (address, fragment) = match text.split_once('#') {
        Some((address, fragment)) => (address, Some(fragment)),
        None => (text, None),
    };
    let wrong = |problem| LocatorError::Address { locator: shown(text), problem };
    let git = address.strip_prefix("git+");
    let remote = git.unwrap_or(address);
    let scheme = remote.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let is_git = match scheme.as_deref() {
        Some("http" | "https") => git.is_some() || has_git_ending(remote),
        Some("git" | "ssh") => true,
        Some(_) => return Ok(None),
        None => git.is_none() && remote.starts_with("git@") && remote.contains(':'),
    };
    if scheme.is_none() && !is_git {
        return Ok(None);
    }
    check_host(remote, scheme.as_deref()).map_err(wrong)?;
    if is_git {
        let git = git_locator(remote, fragment).map_err(wrong)?;
        return Ok(Some(Locator::Git(git).into()));
    }
    let checksum =
        match fragment {
            None | Some("") => None,
            Some(fragment) => Some(Digest::parse(fragment).map_err(|_| {
                wrong("the part after '#' is not sha256:<64 lower-case hex digits>")
            })?),
        };
    let unprotected = checksum.is_none() && scheme.as_deref() == Some("http");
    let warning = unprotected.then(|| {
        format!("locator {:?} is neither encrypted nor pinned; add #sha256:<digest>", short(text))
    });
    let locator = Locator::Http(HttpLocator { url: address.to_owned(), checksum });
    Ok(Some(Located { locator, warning }))
}

fn has_git_ending(remote: &str) -> bool {
    let path = remote.split_once('?').map_or(remote, |(path, _)| path);
    path.trim_end_matches('/').ends_with(".git")
}

/// The authority of an address: a host, and for git over ssh a user; never a password.
fn check_host(remote: &str, scheme: Option<&str>) -> Result<(), &'static str> {
    let (authority, user) = match scheme {
        Some(scheme) => {
            let rest = remote.get(scheme.len() + 3..).unwrap_or_default();
            (rest.split(['/', '?']).next().unwrap_or_default(), scheme == "ssh")
        }
        None => (remote.split(':').next().unwrap_or_default(), true),
    };
    let host = match authority.rsplit_once('@') {
        Some((name, _)) if name.contains(':') => {
            return Err("passwords in addresses are not accepted");
        }
        Some((_, _)) if !user => return Err("user names in addresses are not accepted"),
        Some((name, host)) => {
            // What starts with '-' could be read as an option by a program.
            if name.is_empty() || name.starts_with('-') {
                return Err("it has no user name before '@'");
            }
            host
        }
        None => authority,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    if host.is_empty() || host.starts_with(['-', ':']) || !host.bytes().all(plain) {
        return Err("it has no host");
    }
    if !remote.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it has characters that are not printable ASCII");
    }
    Ok(())
}

fn git_locator(remote: &str, fragment: Option<&str>) -> Result<GitLocator, &'static str> {
    let (reference, directory) = match fragment.unwrap_or_default().split_once(':') {
        Some((reference, directory)) => (reference, directory),
        None => (fragment.unwrap_or_default(), ""),
    };
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"./-_+@".contains(&byte);
    if reference.starts_with('-') || !reference.bytes().all(safe) || reference.contains("..") {
        return Err("the part after '#' is not a branch, tag or commit");
    }
    let directory = directory.trim_matches('/');
    if directory.split('/').any(|part| part == ".." || part == ".git") {
        return Err("the directory after ':' leads out of the repository's files");
    }
    let given = |text: &str| (!text.is_empty() && text != ".").then(|| text.to_owned());
    Ok(GitLocator {
        remote: remote.to_owned(),
        reference: given(reference),
        directory: given(directory),
    })
}

/// The locator as errors show it: what stands where a password may stand is left out.
fn shown(text: &str) -> String {
    let text = short(text);
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    match text[start..end].rfind('@') {
        Some(at) if text[start..start + at].contains(':') => {
            format!("{}***{}", &text[..start], &text[start + at..])
        }
        _ => text,
    }
}
