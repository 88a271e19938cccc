//! Reads a `.dockerignore` file into a pattern list.

use super::matcher::clean;

/// Longest ignore file line looked at: a path is at most 4096 bytes, escapes double it.
const MAX_LINE: usize = 64 << 10;

/// The patterns of an ignore file, in order.
///
/// Comments and blank lines go, white space around a pattern goes, paths are cleaned and lose
/// one leading slash, a byte order mark is skipped. Bytes that are not UTF-8 are replaced and
/// so match nothing; lines beyond 64 KiB are ignored.
#[must_use]
pub fn parse_ignore_file(content: &[u8]) -> Vec<String> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut patterns = Vec::new();
    for line in content.split(|byte| *byte == b'\n') {
        if line.len() > MAX_LINE || line.starts_with(b"#") {
            continue;
        }
        let line = String::from_utf8_lossy(line);
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (mark, path) = match line.strip_prefix('!') {
            Some(path) => ("!", path.trim()),
            None => ("", line),
        };
        let cleaned = if path.is_empty() { String::new() } else { clean(path) };
        let relative = match cleaned.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest,
            _ => cleaned.as_str(),
        };
        patterns.push(format!("{mark}{relative}"));
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_patterns() {
        let file = b"\xef\xbb\xbf# comment\n\n  *.o  \r\n/abs/path/\n! keep/./x \n #not a comment\n/\n!/y\n!\n";
        assert_eq!(
            parse_ignore_file(file),
            ["*.o", "abs/path", "!keep/x", "#not a comment", "/", "!y", "!"]
        );
    }
}
