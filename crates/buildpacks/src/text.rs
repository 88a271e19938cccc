//! Texts of strangers in messages: short, and nothing that a terminal would act on.
//!
//! Files and labels are cleaned by the parsers of `cnb`; here is what goes into messages of this
//! crate. A text that is shown without passing here or `{:?}` is a mistake.

/// Most characters that are kept: some texts are as long as the file they are in.
const MAX_MESSAGE: usize = 1000;

/// The text with everything a terminal or an editor would act on escaped; line ends stay.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (index, char) in text.chars().enumerate() {
        match char {
            _ if index == MAX_MESSAGE => {
                shown.push('…');
                break;
            }
            '\n' | '\\' | '"' | '\'' => shown.push(char),
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// The start of a value, for an error that quotes it with `{:?}`.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(200).collect()
}

/// What is wrong with a variable's name, if anything.
///
/// Names become file names below `/platform/env`, so none may lead elsewhere.
#[must_use]
pub fn env_name_problem(name: &str) -> Option<&'static str> {
    /// Longest file name.
    const MAX_NAME: usize = 255;
    match name {
        "" => Some("the name is empty"),
        "." | ".." => Some("the name is a directory"),
        _ if name.len() > MAX_NAME => Some("the name is longer than 255 bytes"),
        _ if !name.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some("the name has characters that are not printable ASCII")
        }
        _ if name.contains(['/', '=']) => Some("the name has a '/' or a '='"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_for_a_terminal_remains() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}\n\"c\""), "a\\u{1b}[2Jb\\u{202e}\n\"c\"");
        assert_eq!(printable(&"x".repeat(5000)).chars().count(), MAX_MESSAGE + 1);
    }

    #[test]
    fn names_of_variables_stay_in_their_directory() {
        for name in ["A", "lower_case", "WITH.DOT", "a-b"] {
            assert_eq!(env_name_problem(name), None, "{name}");
        }
        let long = "a".repeat(256);
        for name in ["", ".", "..", "../x", "a/b", "A=B", "a b", "a\0", "a\u{1b}", "é", &long] {
            assert!(env_name_problem(name).is_some(), "{name:?}");
        }
    }
}
