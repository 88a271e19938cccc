//! Package URLs of images, after the [purl specification](https://github.com/package-url/purl-spec)
//! in the form that image tools agree on: `pkg:docker/name@tag?digest=…&platform=os%2Farch`.

use cofferdam_image::{ParseReferenceError, Platform, Reference};

/// Text that is no image reference.
#[derive(Debug, thiserror::Error)]
#[error("failed to parse ref {text:?}")]
pub struct PurlError {
    text: String,
    #[source]
    source: ParseReferenceError,
}

/// The URL of image `reference`; `kind` is `docker` for registries and `oci` for layouts. The tag
/// is `latest` when there is neither tag nor digest.
///
/// # Errors
/// The text is no image reference.
pub fn image_purl(
    kind: &str,
    reference: &str,
    platform: Option<&Platform>,
    extra: &[(&str, &str)],
) -> Result<String, PurlError> {
    let parsed = Reference::parse(reference)
        .map_err(|source| PurlError { text: reference.chars().take(300).collect(), source })?;
    let familiar = parsed.without_target().familiar();
    let path: Vec<String> = familiar.split('/').map(escaped).collect();
    let mut url = format!("pkg:{kind}/{}", path.join("/"));
    if let Some(tag) = parsed.tag() {
        url.push('@');
        url.push_str(tag);
    }
    let mut qualifiers = Vec::new();
    if let Some(digest) = parsed.digest() {
        qualifiers.push(format!("digest={digest}"));
    }
    if let Some(platform) = platform {
        let platform = platform.normalized().to_string();
        qualifiers.push(format!("platform={}", escaped(&platform)));
    }
    qualifiers.extend(extra.iter().map(|(key, value)| format!("{key}={}", escaped(value))));
    if !qualifiers.is_empty() {
        url.push('?');
        url.push_str(&qualifiers.join("&"));
    }
    Ok(url)
}

/// Percent-encoded but for letters, digits and `-._~`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_digest::Digest;

    use super::*;

    #[test]
    fn references_become_urls() {
        let digest = Digest::of("x");
        let platform = Platform::new("linux", "arm64", "v8");
        for (reference, platform, url) in [
            ("alpine", None, "pkg:docker/alpine@latest".to_owned()),
            ("library/alpine:3", None, "pkg:docker/alpine@3".to_owned()),
            ("user/test:v2", None, "pkg:docker/user/test@v2".to_owned()),
            ("localhost:5000/a/b", None, "pkg:docker/localhost%3A5000/a/b@latest".to_owned()),
            (&format!("a@{digest}"), None, format!("pkg:docker/a?digest={digest}")),
            (
                &format!("a:1@{digest}"),
                Some(&platform),
                format!("pkg:docker/a@1?digest={digest}&platform=linux%2Farm64"),
            ),
        ] {
            assert_eq!(image_purl("docker", reference, platform, &[]).unwrap(), url);
        }
        assert!(image_purl("docker", "A:b:c", None, &[]).is_err());
    }
}
