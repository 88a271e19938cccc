#![allow(clippy::unwrap_used)]
use super::*;

fn entry(text: &str) -> TrustEntry {
    TrustEntry::parse(text).unwrap()
}

fn judge(trusted: &[&str], denied: &[&str], flag: bool, reference: &str) -> Verdict {
    let list = |texts: &[&str]| texts.iter().map(|text| entry(text)).collect();
    Trust::new(list(trusted), list(denied), flag).judge(reference, Digest::of(b"real")).unwrap()
}

#[test]
fn known_builders_are_bound_to_their_registry() {
    for reference in [
        "heroku/builder:24",
        "docker.io/heroku/builder:24",
        "index.docker.io/heroku/builder:24",
        "gcr.io/buildpacks/builder:google-22",
        "paketobuildpacks/builder-jammy-base",
        "paketobuildpacks/builder-jammy-base:latest",
    ] {
        let verdict = judge(&[], &[], false, reference);
        assert!(verdict.trusted, "{reference}");
        assert!(verdict.why.starts_with("is a known builder (") && verdict.entry.is_some());
    }
    let pinned = format!("heroku/builder:24@{}", Digest::of(b"real"));
    for reference in [
        "evil.io/heroku/builder:24",
        "heroku/builder:25",
        "heroku/builder",
        "heroku/builder2:24",
        "docker.io.evil.io/heroku/builder:24",
        "buildpacks/builder:google-22",
        "localhost/heroku/builder:24",
        &pinned,
    ] {
        assert!(!judge(&[], &[], false, reference).trusted, "{reference}");
    }
}

#[test]
fn entries_bind_what_they_name() {
    let real = Digest::of(b"real");
    let other = Digest::of(b"other");
    let at = |name: &str, digest: Digest| format!("{name}@{digest}");
    for (line, reference, trusted) in [
        ("good.io/team/b".to_owned(), "good.io/team/b:1".to_owned(), true),
        ("good.io/team/b".to_owned(), at("good.io/team/b", other), true),
        ("good.io/team/b".to_owned(), "evil.io/team/b:1".to_owned(), false),
        ("good.io/team/b".to_owned(), "good.io:5000/team/b:1".to_owned(), false),
        ("team/b".to_owned(), "evil.io/team/b".to_owned(), false),
        ("good.io/team/b:1".to_owned(), "good.io/team/b:1".to_owned(), true),
        ("good.io/team/b:1".to_owned(), "good.io/team/b:2".to_owned(), false),
        ("good.io/team/b:latest".to_owned(), "good.io/team/b".to_owned(), true),
        // A tag beside a digest is decoration.
        ("good.io/team/b:1".to_owned(), at("good.io/team/b:1", real), false),
        (at("good.io/team/b", real), "good.io/team/b:7".to_owned(), true),
        (at("good.io/team/b", real), at("good.io/team/b", real), true),
        (at("good.io/team/b", other), "good.io/team/b:7".to_owned(), false),
        // The digest of an index that resolved to a manifest.
        (at("good.io/team/b", other), at("good.io/team/b", other), true),
        (at("good.io/team/b:1", real), "good.io/team/b:1".to_owned(), true),
        (at("good.io/team/b:1", real), "good.io/team/b:2".to_owned(), false),
    ] {
        let verdict = judge(&[&line], &[], false, &reference);
        assert_eq!(verdict.trusted, trusted, "{line} {reference}");
        assert_eq!(verdict.entry.is_some(), trusted);
    }
}

#[test]
fn a_deny_entry_wins() {
    let real = Digest::of(b"real");
    for (line, reference) in [
        ("heroku/builder".to_owned(), "heroku/builder:24".to_owned()),
        ("docker.io/heroku/builder:24".to_owned(), "heroku/builder:24".to_owned()),
        ("heroku/builder:24".to_owned(), format!("heroku/builder:24@{real}")),
        (format!("heroku/builder@{real}"), "heroku/builder:24".to_owned()),
        (format!("heroku/builder:1@{real}"), "heroku/builder:24".to_owned()),
    ] {
        for flag in [false, true] {
            let verdict = judge(&[&reference], &[&line], flag, &reference);
            assert!(!verdict.trusted && verdict.denied, "{line}");
            assert!(verdict.why.starts_with("is denied by the entry docker.io/heroku/builder"));
        }
    }
    assert!(judge(&[], &["evil.io/heroku/builder"], false, "heroku/builder:24").trusted);
}

#[test]
fn the_flag_trusts_for_once() {
    let verdict = judge(&[], &[], true, "anybody/x");
    assert!(verdict.trusted && verdict.entry.is_none());
    assert_eq!(verdict.why, "is trusted by --trust-builder");
    assert_eq!(judge(&[], &[], false, "anybody/x").why, "is neither known nor trusted by an entry");
    assert!(Trust::default().judge("a\u{1b}b", Digest::of(b"")).is_err());
}

#[test]
fn the_file_is_read_and_written() {
    let mut file = TrustFile::default();
    assert!(file.add(entry("team/b:1")));
    assert!(!file.add(entry("docker.io/team/b:1")));
    assert!(file.deny(entry("evil.io/x")));
    assert!(file.deny(entry("team/b:1")), "the later word counts");
    assert!(file.trusted.is_empty());
    assert!(file.add(entry("team/b:1")));
    let text = file.render();
    assert_eq!(
        text,
        "[[trusted]]\nimage = \"docker.io/team/b:1\"\n\n[[denied]]\nimage = \"evil.io/x\"\n"
    );
    assert_eq!(TrustFile::parse("trust.toml", text.as_bytes()).unwrap(), file);
    assert!(file.remove(&entry("team/b:1")) && !file.remove(&entry("team/b:1")));
    assert!(!file.trust(false).judge("evil.io/x", Digest::of(b"")).unwrap().trusted);
    assert_eq!(TrustFile::parse("trust.toml", b"").unwrap(), TrustFile::default());
}

#[test]
fn a_hostile_file_is_refused() {
    for text in [
        "[[deny]]\nimage = \"a\"",
        "[[denied]]\nimage = \"a\"\ntag = \"1\"",
        "[[trusted]]\nimage = \"\\u001b[31m\"",
        "[[trusted]]\nimage = 1",
        "trusted = [\"a\"]",
        "\"\\u001b[2J\" = 1",
    ] {
        let error = TrustFile::parse("trust.toml", text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("trust.toml: ") && !error.contains('\u{1b}'), "{error:?}");
    }
}
