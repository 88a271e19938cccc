//! Addresses of servers: what people type, in one form.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;
use serde::Serialize;
use url::{Host, Url};

/// The address of a server: scheme, host, port and perhaps a path that all calls go below, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ServerUrl(String);

/// Text that is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No URL at all, or of another scheme.
    #[error("invalid server {text:?}: expected http://HOST[:PORT] or https://HOST[:PORT]")]
    Scheme {
        /// The text.
        text: String,
    },
    /// Parts that a server's address does not have. They are not repeated: a password may be among them.
    #[error("the server's URL must have no user, password, query or fragment")]
    Parts,
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError::Scheme { text: text.to_owned() };
        let url = Url::parse(text.trim()).map_err(|_| wrong())?;
        let web = matches!(url.scheme(), "http" | "https");
        if !web || url.host_str().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Parts);
        }
        let text = url.as_str().trim_end_matches('/').to_owned();
        // What cannot be called is refused here and not at the first call.
        if text.parse::<Uri>().is_err() {
            return Err(wrong());
        }
        Ok(Self(text))
    }
}

impl ServerUrl {
    /// As text, without a slash at the end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether calls are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// Whether calls stay on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    pub(crate) fn uri(&self) -> Uri {
        // Tried when this value was made.
        self.0.parse().unwrap_or_default()
    }

    /// The name a certificate must have.
    pub(crate) fn host(&self) -> Option<Host<String>> {
        Url::parse(&self.0).ok().and_then(|url| url.host().map(|host| host.to_owned()))
    }

    /// Where to connect to: host and port.
    pub(crate) fn place(&self) -> (String, u16) {
        let uri = self.uri();
        let default = if self.is_encrypted() { 443 } else { 80 };
        let port = uri.authority().and_then(Authority::port_u16).unwrap_or(default);
        let host = match self.host() {
            Some(Host::Domain(name)) => name,
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => String::new(),
        };
        (host, port)
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn one_form() {
        for text in
            ["https://Builds.Example", "https://builds.example/", "https://builds.example:443"]
        {
            assert_eq!(url(text).as_str(), "https://builds.example", "{text}");
        }
        assert_eq!(url("http://h:8080/deep/er/").as_str(), "http://h:8080/deep/er");
        assert_eq!(url("http://[::1]:8080").place(), ("::1".to_owned(), 8080));
        assert_eq!(url("https://h").place(), ("h".to_owned(), 443));
        assert_eq!(url("http://h").place(), ("h".to_owned(), 80));
    }

    #[test]
    fn where_calls_go() {
        assert!(url("https://h").is_encrypted() && !url("http://h").is_encrypted());
        for text in
            ["http://127.0.0.1:1", "http://[::1]", "http://localhost:9", "http://a.localhost"]
        {
            assert!(url(text).is_local(), "{text}");
        }
        assert!(!url("http://10.0.0.1").is_local() && !url("http://localhost.example").is_local());
    }

    #[test]
    fn what_is_no_server() {
        for text in [
            "",
            "h:80",
            "unix:///x",
            "tcp://h:1",
            "http://",
            "http://h?x",
            "http://h#x",
            "https://u:p@h",
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err();
            assert!(!error.to_string().contains("u:p"), "{error}");
        }
    }
}
