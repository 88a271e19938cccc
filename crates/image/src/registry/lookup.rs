//! Looks up names of hosts.
//!
//! The system is asked, as it would be without this module; a failure then says which name it is about, in the words of BuildKit, which
//! its clients look for. Must never remember an answer, and never take part in a decision about who may be connected to.

use std::io;
use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// What the libraries of C say of a name that is none, or that leads to no address.
const ABSENT: [&str; 4] = [
    "Name or service not known",
    "Name does not resolve",
    "No address associated with hostname",
    "Name has no usable address",
];
/// What Rust's library puts before that.
const ATTEMPT: &str = "failed to lookup address information: ";

/// A name that could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("dial tcp: lookup {host}: {reason}")]
pub struct LookupError {
    host: String,
    reason: String,
}

/// The addresses of `host` in the order in which they are to be tried; their ports mean nothing.
///
/// # Errors
/// There is no such name, or nobody could be asked.
pub async fn lookup(host: &str) -> Result<Vec<SocketAddr>, LookupError> {
    match tokio::net::lookup_host((host, 0)).await {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(LookupError { host: host.to_owned(), reason: reason(&error) }),
    }
}

fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix(ATTEMPT).unwrap_or(&text);
    if ABSENT.contains(&text) { "no such host".to_owned() } else { text.to_owned() }
}

/// Has an HTTP client look names up here.
#[derive(Debug, Clone, Copy)]
pub struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(addresses(name))
    }
}

async fn addresses(name: Name) -> Result<Addrs, Box<dyn std::error::Error + Send + Sync>> {
    let found = lookup(name.as_str()).await?;
    Ok(Box::new(found.into_iter()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_that_is_none_is_told_from_a_server_that_is_silent() {
        let reason = |text: &str| reason(&io::Error::other(format!("{ATTEMPT}{text}")));
        for text in ABSENT {
            assert_eq!(reason(text), "no such host");
        }
        let silent = "Temporary failure in name resolution";
        assert_eq!(reason(silent), silent);
    }

    #[tokio::test]
    async fn a_failure_says_what_was_looked_up() {
        assert!(lookup("localhost").await.unwrap().iter().all(|found| found.ip().is_loopback()));
        let error = lookup("absent.invalid").await.unwrap_err();
        assert!(error.to_string().starts_with("dial tcp: lookup absent.invalid: "), "{error}");
    }
}
