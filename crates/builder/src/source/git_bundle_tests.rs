//! Bundles: which are named, and what their headers may say.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use super::*;

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn named(text: &str) -> Result<Option<Bundle>, Failure> {
    let attrs = [(BUNDLE.to_owned(), text.to_owned())].into_iter().collect();
    Bundle::of(&pb::SourceOp { attrs, ..pb::SourceOp::default() })
}

fn read(text: &str) -> Result<(u64, String), BundleError> {
    header(&mut text.as_bytes(), false)
}

#[test]
fn a_bundle_is_a_blob_by_its_digest() {
    let digest = Digest::of("bundle");
    let there = named(&format!("docker-image+blob://host:5000/a/b@{digest}")).unwrap().unwrap();
    assert!(!there.is_local() && there.digest == digest);
    let here = named(&format!("oci-layout+blob://not/real@{digest}")).unwrap().unwrap();
    assert!(here.is_local() && here.reference == format!("not/real@{digest}"));
    assert_eq!(named("").unwrap(), None);
    for text in [
        format!("host/a@{digest}"),
        format!("https://host/a@{digest}"),
        format!("file:///a@{digest}"),
        format!("docker-image://host/a@{digest}"),
        "docker-image+blob://host/a:latest".to_owned(),
        "oci-layout+blob://a@sha256:12".to_owned(),
        format!("docker-image+blob://--upload-pack=x@{digest}"),
    ] {
        assert!(named(&text).is_err(), "{text} was accepted");
    }
}

#[test]
fn references_are_branches_where_nobody_says_otherwise() {
    for (given, name) in [
        ("", DEFAULT_NAME),
        ("HEAD", DEFAULT_NAME),
        (COMMIT, DEFAULT_NAME),
        ("master", "refs/heads/master"),
        ("heads/master", "refs/heads/master"),
        ("refs/heads/a/b", "refs/heads/a/b"),
        ("refs/tags/v1", "refs/tags/v1"),
        ("refs/pull/1/head", "refs/heads/pull/1/head"),
    ] {
        assert_eq!(whole_name(given), name);
    }
}

#[test]
fn headers_are_read_up_to_the_pack() {
    let text = format!("# v2 git bundle\n{COMMIT} refs/heads/main\n{COMMIT} HEAD\n\nPACK");
    let (length, listing) = read(&text).unwrap();
    assert_eq!(&text[usize::try_from(length).unwrap()..], "PACK");
    assert_eq!(choose(&listing, "main").unwrap().object, COMMIT);
    let later = format!("# v3 git bundle\n@object-format=sha1\n{COMMIT} refs/tags/v1\n\n");
    assert_eq!(read(&later).unwrap().1, format!("{COMMIT}\trefs/tags/v1\n"));
}

#[test]
fn headers_that_demand_anything_are_refused() {
    for (text, reason) in [
        ("PACK\n\n".to_owned(), "version 2 or 3"),
        ("# v4 git bundle\n\n".to_owned(), "version 2 or 3"),
        ("# v2 git bundle\n".to_owned(), "not whole"),
        (format!("# v2 git bundle\n{COMMIT} refs/heads/main"), "not whole"),
        (format!("# v2 git bundle\n-{COMMIT} before\n\n"), "builds upon"),
        ("# v3 git bundle\n@filter=blob:none\n\n".to_owned(), "filter=blob:none"),
        ("# v3 git bundle\n@object-format=sha256\n\n".to_owned(), "SHA-256"),
        ("# v2 git bundle\n@object-format=sha1\n\n".to_owned(), "means nothing"),
        ("# v2 git bundle\n--exec=x refs/heads/main\n\n".to_owned(), "builds upon"),
        ("# v2 git bundle\nmain refs/heads/main\n\n".to_owned(), "means nothing"),
        (format!("# v2 git bundle\n{COMMIT} refs/heads/\tmain\n\n"), "means nothing"),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
    let long = format!("# v2 git bundle\n{COMMIT} {}\n\n", "x".repeat(1000));
    let mut bounded = io::Read::take(long.as_bytes(), 100);
    assert!(header(&mut bounded, false).is_err());
}

#[test]
fn bundles_that_git_makes_are_read() {
    let directory = tempfile::tempdir().unwrap();
    for format in ["sha1", "sha256"] {
        let script = format!(
            "git init -q -b main --object-format={format} {format} && cd {format} && echo x > x && git add x && \
             git -c user.email=t@example.com -c user.name=t commit -qm one && git bundle create -q ../{format}.bundle refs/heads/main && git rev-parse HEAD"
        );
        let out = Command::new("sh")
            .args(["-c", &script])
            .current_dir(directory.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let commit = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        let bytes = std::fs::read(directory.path().join(format!("{format}.bundle"))).unwrap();
        let is_long = format == "sha256";
        let (length, listing) = header(&mut bytes.as_slice(), is_long).unwrap();
        assert_eq!(choose(&listing, "main").unwrap().commit(), commit);
        assert!(bytes[usize::try_from(length).unwrap()..].starts_with(b"PACK"));
        assert!(header(&mut bytes.as_slice(), !is_long).is_err());
    }
}
