//! `.dockerignore`: its text to patterns.
//!
//! See <https://docs.docker.com/build/concepts/context/#dockerignore-files>. What a pattern
//! matches is decided elsewhere; this only reads the list. The caller bounds the text.

/// The patterns of a `.dockerignore` file in order, cleaned and relative to the context; a
/// `!` stays in front.
#[must_use]
pub fn ignore_patterns(text: &[u8]) -> Vec<String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut patterns = Vec::new();
    for line in String::from_utf8_lossy(text).lines() {
        // Only a `#` in the first column makes a comment.
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        patterns.push(match line.trim().strip_prefix('!') {
            Some(kept) => format!("!{}", relative(kept.trim())),
            None => relative(line.trim()),
        });
    }
    patterns
}

/// Resolves `.` and `..` in the text and drops the leading slash.
fn relative(pattern: &str) -> String {
    if pattern.is_empty() {
        return String::new();
    }
    let rooted = pattern.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (parts.is_empty(), rooted) {
        (false, _) => parts.join("/"),
        (true, true) => "/".to_owned(),
        (true, false) => ".".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_patterns() {
        let text = b"\xef\xbb\xbf# note\n\n /a/./b/../c/ \r\n!  /keep\n#x\n #y\n**/*.o\n!\n../up\n/\n.\n/../z";
        let expected = ["a/c", "!keep", "#y", "**/*.o", "!", "../up", "/", ".", "z"];
        assert_eq!(ignore_patterns(text), expected);
    }
}
