//! Digests of what clients push: SHA-256 and SHA-512.
//!
//! The rest of the product names content by SHA-256 alone; a registry must also take what other
//! tools name by SHA-512 ([descriptor digests](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests)).
//! A [`ContentDigest`] is always well formed, so its parts are safe as file names. This module
//! must never read or write files.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512};

/// A registered hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Algorithm {
    /// 64 hex digits.
    Sha256,
    /// 128 hex digits.
    Sha512,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A well-formed digest, `<algorithm>:<lower-case hex>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContentDigest {
    algorithm: Algorithm,
    hex: String,
}

impl ContentDigest {
    /// Parses strictly: any other algorithm, length, case or character is `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let algorithm = Algorithm::parse(algorithm)?;
        Self::from_hex(algorithm, hex)
    }

    /// The digest whose hex digits are `hex`.
    pub(crate) fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let well_formed = hex.len() == algorithm.digits()
            && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        well_formed.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    /// The digest of `bytes`.
    pub(crate) fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn hex(&self) -> &str {
        &self.hex
    }

    /// The first two hex digits: the directory this content lies in.
    pub(crate) fn shard(&self) -> &str {
        &self.hex[..2]
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// Computes a digest from pieces.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> ContentDigest {
        let algorithm = self.algorithm();
        let hex = match self {
            Self::Sha256(hash) => hex::encode(hash.finalize()),
            Self::Sha512(hash) => hex::encode(hash.finalize()),
        };
        ContentDigest { algorithm, hex }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_algorithms_give_the_known_values() {
        assert_eq!(
            ContentDigest::of(Algorithm::Sha256, b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let long = ContentDigest::of(Algorithm::Sha512, b"").to_string();
        assert!(
            long.starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921")
        );
        assert_eq!(ContentDigest::parse(&long).unwrap().to_string(), long);
    }

    #[test]
    fn hostile_digests_are_refused() {
        let hex = ContentDigest::of(Algorithm::Sha256, b"").hex().to_owned();
        for text in [
            String::new(),
            ":".to_owned(),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{hex}/../x"),
            "sha256:../../x".to_owned(),
            format!("sha256:/{}", &hex[1..]),
            format!("sha256:{}é", &hex[2..]),
            format!("md5:{}", &hex[..32]),
            format!("sha256+b64:{hex}"),
        ] {
            assert!(ContentDigest::parse(&text).is_none(), "{text:?} was accepted");
        }
    }
}
