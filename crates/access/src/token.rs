//! Secrets: how they are made, what they look like, and under what they are kept.
//!
//! A secret is shown once and never stored; what is stored is its SHA-256. That is enough for 256 random bits: there is nothing to
//! guess, so nothing to slow down.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cofferdam_records::TokenKind;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};

/// Random bytes of a secret.
const RANDOM: usize = 32;
/// Characters of them in base64url without padding.
const LETTERS: usize = 43;
/// What every secret begins with, so that scanners of leaked secrets can find them.
const MARK: &str = "cfd_";

/// A new secret of a kind, and the hash it is kept under.
#[must_use]
pub fn mint(kind: TokenKind) -> (String, String) {
    named(word(kind))
}

/// A new secret for the link that shows a build to everybody who has it, and the hash it is kept under.
#[must_use]
pub fn mint_share() -> (String, String) {
    named("share")
}

/// What a secret is kept under: lowercase hex SHA-256 of all of it.
#[must_use]
pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

fn named(word: &str) -> (String, String) {
    let secret = format!("{MARK}{word}_{}", URL_SAFE_NO_PAD.encode(random()));
    let hash = hash(&secret);
    (secret, hash)
}

const fn word(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Organization => "org",
        TokenKind::Project => "project",
        TokenKind::Build => "build",
        TokenKind::Pull => "pull",
        TokenKind::Session => "session",
    }
}

/// Whether the text claims to be one of this server's secrets.
pub(crate) fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Whether the text has the form of a token's secret. Says nothing about whether it is one.
pub(crate) fn is_well_formed(text: &str) -> bool {
    let Some((kind, letters)) = text.strip_prefix(MARK).and_then(|rest| rest.split_once('_'))
    else {
        return false;
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    matches!(kind, "org" | "project" | "build" | "pull" | "session")
        && letters.len() == LETTERS
        && letters.bytes().all(letter)
}

/// Bytes from the kernel. There is no going on without them.
fn random() -> [u8; RANDOM] {
    let mut bytes = [0; RANDOM];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random numbers: {error}"),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_well_formed_different_and_hashed() {
        let kinds = [
            (TokenKind::Organization, "cfd_org_"),
            (TokenKind::Project, "cfd_project_"),
            (TokenKind::Build, "cfd_build_"),
            (TokenKind::Pull, "cfd_pull_"),
            (TokenKind::Session, "cfd_session_"),
        ];
        for (kind, prefix) in kinds {
            let (secret, kept) = mint(kind);
            assert!(secret.starts_with(prefix), "{secret}");
            assert_eq!(secret.len(), prefix.len() + LETTERS);
            assert!(is_well_formed(&secret), "{secret}");
            assert_eq!(hash(&secret), kept);
            assert_eq!(kept.len(), 64);
            assert_ne!(mint(kind).0, secret);
        }
        let (share, _) = mint_share();
        assert!(!is_well_formed(&share), "a share link is no token");
    }

    #[test]
    fn the_hash_is_sha256_of_the_whole_secret() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc"), expected);
    }

    #[test]
    fn other_texts_are_not_well_formed() {
        let (secret, _) = mint(TokenKind::Project);
        let longer = format!("{secret}A");
        let other = secret.replace("project", "admin");
        let upper = secret.replace("cfd_", "CFD_");
        let nul = format!("{}\0", &secret[..secret.len() - 1]);
        for bad in ["", "cfd_", "cfd_org", "cfd_org_", &secret[1..], &longer, &other, &upper, &nul]
        {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
    }
}
