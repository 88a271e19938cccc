//! `WWW-Authenticate` headers ([RFC 9110, section 11](https://www.rfc-editor.org/rfc/rfc9110#section-11)).

use std::collections::BTreeMap;

use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longest header value looked at. Real ones stay well below a kilobyte.
const MAX_HEADER: usize = 8 << 10;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Bearer { realm: String, service: String, scope: Option<String> },
    Basic,
}

impl Challenge {
    /// The strongest challenge we can answer.
    pub(super) fn pick(headers: &HeaderMap) -> Option<Self> {
        let mut basic = false;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            for (scheme, mut parameters) in value.to_str().map(parse).unwrap_or_default() {
                match scheme.as_str() {
                    "bearer" => {
                        if let Some(realm) = parameters.remove("realm") {
                            let service = parameters.remove("service").unwrap_or_default();
                            let scope =
                                parameters.remove("scope").filter(|scope| !scope.is_empty());
                            return Some(Self::Bearer { realm, service, scope });
                        }
                    }
                    "basic" => basic = true,
                    _ => {}
                }
            }
        }
        basic.then_some(Self::Basic)
    }
}

type Parsed = Vec<(String, BTreeMap<String, String>)>;

/// Challenges in one header value; whatever is malformed ends the list.
fn parse(text: &str) -> Parsed {
    let mut found: Parsed = Vec::new();
    let mut rest = text.get(..text.len().min(MAX_HEADER)).unwrap_or_default();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return found;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match after.strip_prefix('=') {
            // `name=value` belongs to the scheme before it.
            Some(value) => {
                let Some((value, after)) = parameter(value.trim_start_matches([' ', '\t'])) else {
                    return found;
                };
                let Some((_, parameters)) = found.last_mut() else { return found };
                parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pick(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::pick(&headers)
    }

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: &str, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.to_owned(),
                scope: scope.map(str::to_owned),
            })
        };
        assert_eq!(
            pick(&[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#]),
            bearer("https://a/t", "s", Some("repository:x:pull,push"))
        );
        assert_eq!(
            pick(&[r#"Basic realm="x, y=z", bEaReR realm=https://a/t , service = "q\"q""#]),
            bearer("https://a/t", "q\"q", None)
        );
        assert_eq!(
            pick(&["Basic realm=x", r#"Bearer realm="https://b""#]),
            bearer("https://b", "", None)
        );
        assert_eq!(pick(&["Basic"]), Some(Challenge::Basic));
        for nothing in [
            "",
            "Digest realm=x",
            "Bearer",
            "Bearer service=x",
            "=",
            "realm=x",
            r#"Bearer realm="x"#,
            ",,,",
        ] {
            assert_eq!(pick(&[nothing]), None, "{nothing}");
        }
    }
}
