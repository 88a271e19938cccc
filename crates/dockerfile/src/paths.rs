//! Paths inside images and contexts, as text.
//!
//! Only lexical: the builder resolves paths in real trees. Rules are those of Unix paths with `.` and
//! `..` removed; nothing may climb above the root. Windows forms are not known here.

/// The shortest equal path: no `.`, no inner `..`, no double or trailing slash; empty is `.`.
pub(crate) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            other => parts.push(other),
        }
    }
    let text = parts.join("/");
    match (absolute, text.is_empty()) {
        (true, _) => format!("/{text}"),
        (false, true) => ".".to_owned(),
        (false, false) => text,
    }
}

/// `path` below `parent`, cleaned; a leading slash of `path` changes nothing.
pub(crate) fn join(parent: &str, path: &str) -> String {
    clean(&format!("{parent}/{path}"))
}

/// The last component; `/` and `.` stand for nothing.
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// `path` made absolute below `parent` but otherwise as written: absolute paths are not cleaned.
/// `keep_slash` keeps a `/` or `/.` at the end, which decides how a copy treats its destination.
pub(crate) fn absolute(parent: &str, path: &str, keep_slash: bool) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let mut joined = join(&format!("/{parent}"), path);
    if keep_slash {
        if path.ends_with('/') && !joined.ends_with('/') {
            joined.push('/');
        } else if path.ends_with("/.") {
            if joined != "/" {
                joined.push('/');
            }
            joined.push('.');
        }
    }
    joined
}

/// Like [`absolute`], and cleaned in any case.
pub(crate) fn normalize(parent: &str, path: &str, keep_slash: bool) -> String {
    let cleaned = clean(path);
    let mut joined =
        if cleaned.starts_with('/') { cleaned } else { join(&format!("/{parent}"), path) };
    if keep_slash {
        if path.ends_with('/') && !joined.ends_with('/') {
            joined.push('/');
        } else if path.ends_with("/.") {
            if joined != "/" {
                joined.push('/');
            }
            joined.push('.');
        }
    }
    joined
}

/// Whether a path has characters that match more than themselves.
pub(crate) fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' | '?' | '[' => return true,
            '\\' => {
                chars.next();
            }
            _ => {}
        }
    }
    false
}

/// Text with `%xx` replaced; `None` when a `%` has no two hex digits or the result is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in [
            ("", "."),
            ("/", "/"),
            ("a//b/./c/..", "a/b"),
            ("../../a", "../../a"),
            ("/../../a", "/a"),
            ("a/..", "."),
        ] {
            assert_eq!(clean(path), cleaned, "{path:?}");
        }
        assert_eq!(join("/", "../x"), "/x");
        assert_eq!(join("/w", "/x"), "/w/x");
        assert_eq!(base("/a/b/"), "b");
        assert_eq!(base("/"), "/");
    }

    #[test]
    fn destinations_keep_their_end() {
        assert_eq!(absolute("/w", "x/", true), "/w/x/");
        assert_eq!(absolute("/w", "./", true), "/w/");
        assert_eq!(absolute("", "x", true), "/x");
        assert_eq!(absolute("/w", "x/.", true), "/w/x/.");
        assert_eq!(absolute("/w", "/y//z/", true), "/y//z/");
        assert_eq!(normalize("/w", "/y//z/", true), "/y/z/");
        assert_eq!(normalize("", "/", true), "/");
    }

    #[test]
    fn wildcards_and_escapes() {
        assert!(has_wildcard("a*"));
        assert!(!has_wildcard("a\\*"));
        assert_eq!(percent_decode("a%20b").as_deref(), Some("a b"));
        assert_eq!(percent_decode("%f"), None);
        assert_eq!(percent_decode("%ff"), None);
    }
}
