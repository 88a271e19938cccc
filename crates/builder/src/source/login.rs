//! Users and passwords in URLs of repositories.
//!
//! Git writes the URL it was given into the configuration of the repository, of submodules next to it, and into messages. So it
//! never gets one with a password: that travels as a header, which is bound to the host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The URL without user information, and a header that says the same; for other protocols than HTTP the URL as it is.
pub(super) fn split(url: &str) -> (String, Option<String>) {
    let unchanged = || (url.to_owned(), None);
    let Some((scheme @ ("http" | "https"), rest)) = url.split_once("://") else {
        return unchanged();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((login, _)) = rest[..end].rsplit_once('@') else { return unchanged() };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let pair = [decoded(user), decoded(password)].join(&b':');
    let header = format!("Authorization: basic {}", STANDARD.encode(pair));
    (format!("{scheme}://{}", &rest[login.len() + 1..]), Some(header))
}

/// The bytes that `%41` and the like stand for.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_leaves_the_url() {
        let header = |pair: &str| Some(format!("Authorization: basic {}", STANDARD.encode(pair)));
        for (url, plain, login) in [
            ("https://u:p@h:8/x.git", "https://h:8/x.git", header("u:p")),
            ("https://token@h/x", "https://h/x", header("token:")),
            ("http://u:a%40b%3a@h", "http://h", header("u:a@b:")),
            ("http://u:p@ss@h/", "http://h/", header("u:p@ss")),
            ("http://u:%zz%4@h/", "http://h/", header("u:%zz%4")),
            ("http://h/a@b", "http://h/a@b", None),
            ("ssh://git@h/x", "ssh://git@h/x", None),
            ("git@h:x", "git@h:x", None),
        ] {
            assert_eq!(split(url), (plain.to_owned(), login), "{url}");
        }
    }
}
