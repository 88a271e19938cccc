//! Where a daemon listens: `unix://` and `tcp://` addresses.

use std::path::PathBuf;
use std::str::FromStr;

/// A parsed daemon address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// Host and port, without encryption.
    Tcp {
        /// `host:port`.
        authority: String,
    },
}

/// Text that is no daemon address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No scheme this client speaks.
    #[error("unsupported address {address:?}: expected unix:///path/to/socket or tcp://host:port")]
    Scheme {
        /// The text.
        address: String,
    },
    /// A place that cannot be reached with certificates.
    #[error("unsupported address {address:?}: expected tcp://host:port")]
    Encrypted {
        /// The text.
        address: String,
    },
    /// No path or no port.
    #[error("incomplete address {address:?}")]
    Incomplete {
        /// The text.
        address: String,
    },
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        let incomplete = || AddressError::Incomplete { address: address.to_string() };
        if let Some(path) = address.strip_prefix("unix://") {
            if path.is_empty() {
                return Err(incomplete());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if let Some(rest) = address.strip_prefix("tcp://") {
            let authority = rest.trim_end_matches('/');
            let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() || authority.starts_with(':') {
                return Err(incomplete());
            }
            return Ok(Self::Tcp { authority: authority.to_string() });
        }
        Err(AddressError::Scheme { address: address.to_string() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("unix:///run/x.sock".parse(), Ok(Address::Unix("/run/x.sock".into())));
        let tcp = |text: &str| Ok(Address::Tcp { authority: text.into() });
        assert_eq!("tcp://host:1234".parse(), tcp("host:1234"));
        assert_eq!("tcp://[::1]:1234/".parse(), tcp("[::1]:1234"));
        for text in ["", "host:1", "tcp://host", "tcp://:1", "unix://", "http://x:1", "tcp://h:x"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
