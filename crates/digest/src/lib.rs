//! Content digests: the names of everything that is stored or sent.
//!
//! Only SHA-256 exists here, in the form `sha256:<64 lower-case hex digits>` of the
//! [OCI image specification](https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests).
//! A [`Digest`] is always well formed: text from outside passes [`Digest::parse`] before any
//! use as a path, URL or key. This crate must never read or write files.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";

/// A SHA-256 content digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Text that is not a digest this product accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest {text:?}: expected sha256: and 64 lower-case hex digits")]
pub struct ParseDigestError {
    text: String,
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// Wraps 32 bytes that already are a SHA-256 sum.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses `sha256:<hex>`, strictly.
    ///
    /// # Errors
    /// Any other algorithm, length, case or character.
    pub fn parse(text: &str) -> Result<Self, ParseDigestError> {
        let error = || ParseDigestError { text: text.chars().take(100).collect() };
        let hex_part = text.strip_prefix(PREFIX).ok_or_else(error)?;
        if hex_part.len() != 64 || hex_part.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex_part, &mut bytes).map_err(|_| error())?;
        Ok(Self(bytes))
    }

    /// The 64 hex digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The raw 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Computes a digest from pieces.
#[derive(Clone, Default)]
pub struct Digester {
    hash: Sha256,
    len: u64,
}

impl Digester {
    /// An empty digester.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.len += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// Adds one field of a composite key: its length, then its bytes, so that neighbouring
    /// fields can never be mistaken for each other.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.update((bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// How many bytes were added.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.hash.finalize().into())
    }
}

/// Passes reads or writes through to `inner` and digests them on the way.
pub struct Digesting<T> {
    inner: T,
    digester: Digester,
}

impl<T> Digesting<T> {
    /// Wraps a reader or writer.
    pub fn new(inner: T) -> Self {
        Self { inner, digester: Digester::new() }
    }

    /// Bytes that passed so far.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.digester.len()
    }

    /// Whether nothing passed yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.digester.is_empty()
    }

    /// The wrapped value, the digest of all that passed and its length in bytes.
    pub fn finish(self) -> (T, Digest, u64) {
        let len = self.digester.len();
        (self.inner, self.digester.finish(), len)
    }
}

impl<T: Read> Read for Digesting<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Digesting<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digester.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_known_value() {
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), text);
        assert_eq!(Digest::parse(text), Ok(Digest::of(b"")));
    }

    #[test]
    fn hostile_digests_are_refused() {
        let hex = Digest::of(b"").hex();
        for text in [
            String::new(),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            "sha256:../../x".to_owned(),
            format!("sha256:/{}", &hex[1..]),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(Digest::parse(&text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let key = |parts: &[&str]| {
            let mut digester = Digester::new();
            for part in parts {
                digester.field(part);
            }
            digester.finish()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    }
}
