//! Who is asking: the token of a request, and the question whether it may.
//!
//! Clients log in with any user name and a token as the password, which every Docker-like client
//! can, or send the token as a bearer. The registry decides nothing about tokens: [`Authorize`]
//! does, before a path, a file or a record is touched. Tokens must never be logged.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use http::{HeaderMap, header};
use tokio_util::sync::CancellationToken;

use crate::error::Failure;

/// Asks for user name and password. The specification leaves the scheme open; Basic is what
/// docker, podman, skopeo, containerd and BuildKit all speak without a second server.
pub(crate) const CHALLENGE: &str = "Basic realm=\"registry\", charset=\"UTF-8\"";

/// Longest `Authorization` header: identity tokens of CI providers have some kilobytes.
const MAX_HEADER: usize = 16 << 10;

/// What a request does with a project's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read blobs, manifests, tags and referrers.
    Pull,
    /// Upload blobs, mount them and put manifests and tags.
    Push,
    /// Remove tags, manifests and blobs.
    Delete,
}

/// A request that may go on.
#[derive(Debug, Clone, Default)]
pub struct Permit {
    /// Fires when the token is revoked or expires: transfers under way are cut off.
    pub revoked: Option<CancellationToken>,
    /// What has to live as long as the request for that to happen.
    pub held: Option<Arc<dyn fmt::Debug + Send + Sync>>,
}

/// A request that may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no token, or it is not valid; the client is asked to log in. The text tells why.
    Unauthenticated(String),
    /// The project does not exist, or the token may not know that it does.
    NotFound,
    /// The token is valid and knows the project but lacks this right. The text tells what it takes.
    Forbidden(String),
    /// It cannot be decided now.
    Unavailable,
}

/// Decides who may do what; the server's one authorization function stands behind it.
#[async_trait]
pub trait Authorize: Send + Sync + 'static {
    /// Whether this is a valid token at all (`GET /v2/`, what a client's `login` asks).
    async fn identify(&self, token: Option<&str>) -> Result<(), Refusal>;

    /// Whether the token may do this in `project`, a well-formed first component of a
    /// repository's name that need not exist.
    async fn authorize(
        &self,
        token: Option<&str>,
        operation: Operation,
        project: &str,
    ) -> Result<Permit, Refusal>;
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthenticated(message) => Self::Unauthenticated(message),
            Refusal::NotFound => Self::NameUnknown,
            Refusal::Forbidden(message) => Self::Denied(message),
            Refusal::Unavailable => Self::Unavailable,
        }
    }
}

/// The token of a request. Its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// The token in a request's headers: a bearer's, or the password of Basic. No header and an
/// empty token are `None`, as is what cannot be read: both mean nobody.
pub(crate) fn token(headers: &HeaderMap) -> Option<Token> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() || value.len() > MAX_HEADER {
        return None;
    }
    let (scheme, rest) = value.split_once(' ')?;
    let rest = rest.trim();
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        rest.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        password(rest)?
    } else {
        return None;
    };
    (!token.is_empty()).then_some(Token(token))
}

/// The password of `user:password` in base64. Some tools can only store a user name: it counts
/// when the password is empty.
fn password(encoded: &str) -> Option<String> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(if password.is_empty() { user } else { password }.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::HeaderValue;

    use super::*;

    fn read(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        token(&headers).map(|token| token.0)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    }

    #[test]
    fn tokens_are_found_in_both_schemes() {
        assert_eq!(read("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(read("bearer  abc "), Some("abc".to_owned()));
        assert_eq!(read(&basic("x-token:abc")), Some("abc".to_owned()));
        assert_eq!(read(&basic("x:a:b")), Some("a:b".to_owned()));
        assert_eq!(read(&basic("abc:")), Some("abc".to_owned()));
        for nobody in [
            "Bearer",
            "Bearer ",
            "Basic !!",
            "Basic",
            "Digest x",
            "abc",
            &basic("none"),
            &basic(":"),
        ] {
            assert_eq!(read(nobody), None, "{nobody}");
        }
        assert_eq!(read(&format!("Bearer {}", "a".repeat(MAX_HEADER))), None);
        let mut two = HeaderMap::new();
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        two.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert_eq!(token(&two), None);
        assert_eq!(format!("{:?}", Token("secret".to_owned())), "Token(…)");
    }
}
