//! How each registry host is reached: scheme, trust, keys, mirrors, patience.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`Client`](super::Client).
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Per host, as written in references: `docker.io`, `localhost:5000`.
    pub hosts: HashMap<String, HostConfig>,
    /// Sent as `User-Agent`.
    pub user_agent: String,
    /// Time to establish a connection. Default 15 s.
    pub connect_timeout: Duration,
    /// Longest wait for an answer, and longest time in which the other side sends or takes next to
    /// nothing of some content. Default 60 s.
    pub read_timeout: Duration,
    /// Longest wait for the answer to an upload, once everything was sent: registries look at all of
    /// it, and some move it, before they answer. Default 5 min.
    pub answer_timeout: Duration,
    /// Attempts per request, the first included. Default 5.
    pub attempts: u32,
    /// Wait before the second attempt; doubles from there. Default 250 ms.
    pub backoff: Duration,
    /// Longest time that a `Retry-After`, or several, can hold up one request. A registry that asks
    /// for more is not waited for at all. Default 5 min.
    pub max_retry_after: Duration,
    /// Bytes per request of a chunked upload; `None` uploads each blob in one request.
    pub chunk_size: Option<u64>,
    /// Proxy for all connections, `http://…`; `None` connects directly. The environment is not consulted.
    pub proxy: Option<String>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            hosts: HashMap::new(),
            user_agent: concat!("cofferdam/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(300),
            attempts: 5,
            backoff: Duration::from_millis(250),
            max_retry_after: Duration::from_secs(300),
            chunk_size: None,
            proxy: None,
        }
    }
}

/// Settings of one registry host.
#[derive(Debug, Clone, Default)]
pub struct HostConfig {
    /// Hosts asked first, in order, each optionally with a path: `mirror:5000`, `harbor.example/proxy`.
    pub mirrors: Vec<String>,
    /// Plain HTTP. `None`: only for loopback hosts.
    pub http: Option<bool>,
    /// Accept any certificate, and plain HTTP when TLS cannot be had.
    pub insecure: bool,
    /// Files with additional root certificates, PEM.
    pub ca: Vec<PathBuf>,
    /// Client certificates.
    pub keypairs: Vec<KeyPair>,
    /// Token servers, `host` or `host:port`, that may receive this host's credentials although
    /// they are not under its domain.
    pub realms: Vec<String>,
}

/// A client certificate and its key, PEM files.
#[derive(Debug, Clone)]
pub struct KeyPair {
    /// The key.
    pub key: PathBuf,
    /// The certificate chain.
    pub cert: PathBuf,
}

impl ClientConfig {
    /// Settings of `host`; defaults when none were given.
    pub(super) fn host(&self, host: &str) -> HostConfig {
        self.hosts.get(host).cloned().unwrap_or_default()
    }
}

impl HostConfig {
    /// Schemes to try for `host`, in order.
    pub(super) fn schemes(&self, host: &str) -> &'static [&'static str] {
        match (self.http.unwrap_or_else(|| is_loopback(host)), self.insecure) {
            (true, _) => &["http"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        }
    }
}

/// Whether `host` (with or without a port) is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_plain() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert_eq!(HostConfig::default().schemes(host), ["http"]);
        }
        for host in ["docker.io", "localhost.example", "127.0.0.1.example:5000", "10.0.0.1"] {
            assert_eq!(HostConfig::default().schemes(host), ["https"]);
        }
    }
}
