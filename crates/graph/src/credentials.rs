//! Credentials in URLs, which people put into instructions and which must not be shown, recorded or kept in an image.
//!
//! This hides; it is no parser of URLs. What follows `://` up to the end of the authority and has an `@` in it is taken for
//! user information. A user without a password stays for `ssh` and `git`, where it is a name and no secret.

use std::borrow::Cow;

/// What stands for a user and for a password.
const HIDDEN: &str = "xxxxx";

/// The text with user and password of every URL in it hidden.
#[must_use]
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut done = 0;
    for (at, mark) in text.match_indices("://") {
        let begin = at + mark.len();
        let scheme = text[..at]
            .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+')
            .next()
            .unwrap_or_default();
        let rest = &text[begin..];
        // A password may have any of these marks in it but a double quote, which ends a text in most of what has texts in it.
        let end =
            rest.find(|c: char| c.is_whitespace() || "/?#\"".contains(c)).unwrap_or(rest.len());
        let Some((user, _)) = rest[..end].rsplit_once('@').filter(|_| begin >= done) else {
            continue;
        };
        let hidden = match user.split_once(':') {
            Some(_) => format!("{HIDDEN}:{HIDDEN}"),
            None if scheme.ends_with("ssh") || scheme == "git" => continue,
            // Of images and their blobs what stands before the `@` is the name.
            None if matches!(scheme, "image" | "image+blob" | "layout" | "layout+blob") => continue,
            None => HIDDEN.to_owned(),
        };
        shown.push_str(&text[done..begin]);
        shown.push_str(&hidden);
        done = begin + user.len();
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    shown.push_str(&text[done..]);
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_hidden_and_the_rest_stays() {
        for (text, shown) in [
            ("ADD https://u:p@h/x /y", "ADD https://xxxxx:xxxxx@h/x /y"),
            ("https://token@h:80/x", "https://xxxxx@h:80/x"),
            (
                "a http://u:p@h b http://u:q@i?c@d",
                "a http://xxxxx:xxxxx@h b http://xxxxx:xxxxx@i?c@d",
            ),
            ("http://u:p@ss@h/", "http://xxxxx:xxxxx@h/"),
            ("ssh://git@h/x", "ssh://git@h/x"),
            ("git+ssh://git@h/x", "git+ssh://git@h/x"),
            ("ssh://u:p@h/x", "ssh://xxxxx:xxxxx@h/x"),
            ("http://h/a@b", "http://h/a@b"),
            (
                "docker-image://docker.io/library/x@sha256:0",
                "docker-image://docker.io/library/x@sha256:0",
            ),
            ("http://", "http://"),
            ("://@", "://xxxxx@"),
            ("x://u:é@://v:w@h", "x://xxxxx:xxxxx@://xxxxx:xxxxx@h"),
            ("ADD https://u:it's-<a>`secret\\@h/x /y", "ADD https://xxxxx:xxxxx@h/x /y"),
            ("'https://h' or 'a@b'", "'https://h' or 'a@b'"),
            (r#"{"a":"https://h","b":"u@v"}"#, r#"{"a":"https://h","b":"u@v"}"#),
            ("nothing", "nothing"),
        ] {
            assert_eq!(without_credentials(text), shown, "{text}");
        }
    }

    #[test]
    fn names_of_images_by_digest_stay() {
        for scheme in ["docker-image", "docker-image+blob", "oci-layout", "oci-layout+blob"] {
            let text = format!("{scheme}://localhost@sha256:0123/x");
            assert_eq!(without_credentials(&text), text);
        }
    }
}
