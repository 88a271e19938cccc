//! Where a caller found this server, and with which token it came.
//!
//! Clients reach one server under several names (loopback, a host name, a name behind a proxy). Addresses handed out in answers
//! (build pages, endpoints of builders, image references) use the name the caller used, unless the configuration fixes one.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST};

/// A server's name as one caller knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whether it speaks TLS there.
    pub(crate) secure: bool,
    /// `host:port`, or `host` when the port is the scheme's.
    pub(crate) authority: String,
}

/// Longest authority that is believed: a DNS name and a port.
const MAX_AUTHORITY: usize = 261;

impl Origin {
    /// The origin a request was sent to. None when it names no usable one.
    pub(crate) fn of<B>(request: &http::Request<B>, secure: bool) -> Option<Self> {
        let from_header = || request.headers().get(HOST)?.to_str().ok();
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        Self::parse(authority.or_else(from_header)?, secure)
    }

    /// From `host[:port]`.
    pub(crate) fn parse(authority: &str, secure: bool) -> Option<Self> {
        let parsed: http::uri::Authority = authority.parse().ok()?;
        let plain = parsed.as_str().len() <= MAX_AUTHORITY && !parsed.as_str().contains('@');
        plain.then(|| Self { secure, authority: parsed.as_str().to_ascii_lowercase() })
    }

    /// From `http://host[:port]` or `https://…`.
    pub(crate) fn from_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        Self::parse(rest.trim_end_matches('/'), secure)
    }

    /// The URL of a path of this server.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.authority)
    }

    /// Host and port, the port always present.
    pub(crate) fn host_port(&self) -> String {
        let has_port = self
            .authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        match (has_port, self.secure) {
            (true, _) => self.authority.clone(),
            (false, true) => format!("{}:443", self.authority),
            (false, false) => format!("{}:80", self.authority),
        }
    }

    /// Whether it names the caller's own machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host_port = self.host_port();
        let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The bearer token among some headers; an empty one is none. `Basic` and others are no bearer tokens.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn origins() {
        let origin = Origin::from_url("https://Build.Example.com/").unwrap();
        assert_eq!(origin.url("/builds/x"), "https://build.example.com/builds/x");
        assert_eq!(origin.host_port(), "build.example.com:443");
        assert!(!origin.is_loopback());
        for loopback in ["127.0.0.1:80", "localhost", "[::1]:8080", "[::1]"] {
            assert!(Origin::parse(loopback, false).unwrap().is_loopback(), "{loopback}");
        }
        assert_eq!(Origin::parse("[::1]", false).unwrap().host_port(), "[::1]:80");
        for bad in ["", "a b", "user@host", "host/path", &"a".repeat(300)] {
            assert_eq!(Origin::parse(bad, false), None, "{bad}");
        }
        assert_eq!(Origin::from_url("ftp://x"), None);
    }

    #[test]
    fn bearers() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer abc"), Some("abc".into()));
        assert_eq!(read("bearer  abc "), Some("abc".into()));
        assert_eq!(read("Bearer "), None);
        assert_eq!(read("Basic abc"), None);
        assert_eq!(read("Bearer"), None);
    }
}
