//! The certificate of a server's port: whether it and its key belong together, and until when it is good.
//!
//! Of a certificate only the end of its validity is read here; everything else about it is judged by those who connect.

use anyhow::{Context, anyhow};
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use cofferdam_sandbox::Finding;
use cofferdam_server::TlsFiles;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::server;

/// Days before its end from which on a certificate should have been renewed.
const RENEW: i64 = 14;

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// What is to be said about it now.
pub(super) fn finding(files: &TlsFiles) -> Finding {
    judged(files, Utc::now())
}

fn judged(files: &TlsFiles, now: DateTime<Utc>) -> Finding {
    let name = "certificate";
    match end(files) {
        Ok(end) if end <= now => server::finding(name, false, true, format!("ended {end}")),
        Ok(end) if end - now < TimeDelta::days(RENEW) => {
            server::finding(name, false, false, format!("ends {end}: renew it"))
        }
        Ok(end) => server::finding(name, true, true, format!("good until {end}")),
        Err(error) => server::finding(name, false, true, format!("{error:#}")),
    }
}

/// Checks that chain and key belong together; the end of the chain's first certificate.
fn end(files: &TlsFiles) -> anyhow::Result<DateTime<Utc>> {
    let read = || format!("read {}", files.cert.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .with_context(read)?;
    let first =
        chain.first().cloned().ok_or_else(|| anyhow!("there is none")).with_context(read)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("read {}", files.key.display()))?;
    crate::commands::builder::install_cryptography();
    rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the key do not belong together")?;
    not_after(&first)
        .ok_or_else(|| anyhow!("it does not say how long it is good"))
        .with_context(read)
}

/// The end of a certificate's validity (RFC 5280, 4.1).
fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let (inside, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(inside, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, VERSION)?.1;
    }
    // Serial number, algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        rest = element(rest, tag)?.1;
    }
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, second) = time(validity)?;
    Some(time(second)?.0)
}

fn time(der: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let tag = *der.first()?;
    let (text, rest) = element(der, tag)?;
    let text = std::str::from_utf8(text).ok()?;
    let text = match tag {
        // Two digits stand for the years 1950 to 2049.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok()?;
    Some((time.and_utc(), rest))
}

/// The content of an element with this tag, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        // Four bytes of length are more than any certificate has.
        long @ 0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut der = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length @ 0..0x80) => der.push(length),
            _ => {
                der.push(0x82);
                der.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
            }
        }
        der.extend(content);
        der
    }

    fn certificate(version: bool, end: (u8, &str)) -> Vec<u8> {
        let validity =
            der(SEQUENCE, &[&der(UTC_TIME, &[b"200101000000Z"]), &der(end.0, &[end.1.as_bytes()])]);
        let version = if version { der(VERSION, &[&der(INTEGER, &[&[2]])]) } else { Vec::new() };
        let issuer = der(SEQUENCE, &[&[0; 300]]);
        let signed = der(
            SEQUENCE,
            &[&version, &der(INTEGER, &[&[1]]), &der(SEQUENCE, &[]), &issuer, &validity],
        );
        der(SEQUENCE, &[&signed])
    }

    #[test]
    fn the_end_is_found() {
        let read = |version, tag, text| {
            not_after(&certificate(version, (tag, text))).map(|end| end.to_rfc3339())
        };
        let utc = read(true, UTC_TIME, "301231235959Z");
        assert_eq!(utc.as_deref(), Some("2030-12-31T23:59:59+00:00"));
        let late = read(false, GENERALIZED_TIME, "20510203040506Z");
        assert_eq!(late.as_deref(), Some("2051-02-03T04:05:06+00:00"));
        let old = read(true, UTC_TIME, "991231235959Z");
        assert_eq!(old.as_deref(), Some("1999-12-31T23:59:59+00:00"));
        assert_eq!(read(true, UTC_TIME, "soon"), None);
        assert_eq!(read(true, SEQUENCE, "301231235959Z"), None);
    }

    #[test]
    fn cut_certificates_end_nowhere() {
        let whole = certificate(true, (UTC_TIME, "301231235959Z"));
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None, "{length}");
        }
        assert_eq!(not_after(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn files_that_are_not_there_are_named() {
        let files = TlsFiles { cert: "/no/such.pem".into(), key: "/no/such.key".into() };
        let found = finding(&files);
        assert!(!found.present && found.detail.contains("/no/such.pem"), "{found:?}");
    }
}
