#![allow(clippy::unwrap_used)]
use cofferdam_digest::Digest;

use super::*;

fn locate(text: &str) -> Result<Located, LocatorError> {
    let local = |path: &str| match path {
        "./bp" | "bp" | "samples/both" | "/abs/bp" => Some(LocalKind::Directory),
        "./bp.tgz" | "x.cnb" | "/abs/x.cnb" => Some(LocalKind::File),
        _ => None,
    };
    let in_builder = |id: &Id, version: Option<&Version>| {
        ["samples/java", "samples/both"].contains(&id.as_str())
            && version.is_none_or(|version| version.as_str() == "1.0.0")
    };
    Locator::parse(text, Surroundings { local: &local, in_builder: &in_builder })
}

fn shown(text: &str) -> (String, bool) {
    let located = locate(text).unwrap();
    let form = match located.locator {
        Locator::Builder { .. } => "builder",
        Locator::FromBuilder => "splice",
        Locator::Image(_) => "image",
        Locator::Local(_) => "directory",
        Locator::LocalFile(_) => "file",
        Locator::Http(_) => "http",
        Locator::Git(_) => "git",
    };
    (format!("{form} {}", located.locator), located.warning.is_some())
}

#[test]
fn every_form_is_read() {
    let digest = Digest::of(b"x");
    let pinned = format!("https://a.io/x.tgz#{digest}");
    let pinned_shown = format!("http {pinned}");
    for (text, form, warns) in [
        ("urn:cnb:builder:samples/java", "builder urn:cnb:builder:samples/java", false),
        ("urn:cnb:builder:samples/java@1.0.0", "builder urn:cnb:builder:samples/java@1.0.0", false),
        ("from=builder:samples/java", "builder urn:cnb:builder:samples/java", false),
        ("from=builder", "splice from=builder", false),
        ("docker://a/b:1", "image docker://docker.io/a/b:1", false),
        ("docker:/a/b:1", "image docker://docker.io/a/b:1", false),
        ("docker://samples/java", "image docker://docker.io/samples/java", false),
        ("./bp", "directory ./bp", false),
        ("bp", "directory bp", false),
        ("file:///abs/bp", "directory /abs/bp", false),
        ("file://./bp.tgz", "file ./bp.tgz", false),
        ("file://localhost/abs/x.cnb", "file /abs/x.cnb", false),
        ("x.cnb", "file x.cnb", false),
        ("samples/java", "builder urn:cnb:builder:samples/java", false),
        ("samples/java@1.0.0", "builder urn:cnb:builder:samples/java@1.0.0", false),
        ("samples/both", "directory samples/both", true),
        ("samples/other", "image docker://docker.io/samples/other", false),
        ("ghcr.io/a/b:2", "image docker://ghcr.io/a/b:2", false),
        ("https://a.io/x.tgz", "http https://a.io/x.tgz", false),
        (&pinned, &pinned_shown, false),
        ("http://a.io/x.tgz", "http http://a.io/x.tgz", true),
        ("https://a.io/x.git", "git https://a.io/x.git", false),
        ("https://a.io/x.git#v1:sub/bp", "git https://a.io/x.git#v1:sub/bp", false),
        ("git+https://a.io/x#:sub", "git https://a.io/x#:sub", false),
        ("git+ssh://git@a.io/x#main", "git ssh://git@a.io/x#main", false),
        ("git@a.io:x/y.git#main", "git git@a.io:x/y.git#main", false),
        ("git://a.io/x", "git git://a.io/x", false),
    ] {
        assert_eq!(shown(text), (form.to_owned(), warns), "{text}");
    }
}

#[test]
fn what_leads_nowhere_is_refused_by_name() {
    use LocatorError as E;
    type Is = fn(&LocatorError) -> bool;
    let cases: [(&str, Is); 24] = [
        ("", |error| matches!(error, E::Length(_))),
        (" ./bp", |error| matches!(error, E::Characters(_))),
        ("a\u{1b}[31m", |error| matches!(error, E::Characters(_))),
        ("urn:cnb:registry", |error| matches!(error, E::Registry(_))),
        ("urn:cnb:registry:a/b@1", |error| matches!(error, E::Registry(_))),
        ("urn:cnb:other:a", |error| matches!(error, E::Form(_))),
        ("urn:cnb:builder:nobody/x", |error| matches!(error, E::NotInBuilder(_))),
        ("urn:cnb:builder:samples/java@2.0.0", |error| matches!(error, E::NotInBuilder(_))),
        ("urn:cnb:builder:../x", |error| matches!(error, E::Id { .. })),
        ("from=builder:", |error| matches!(error, E::Id { .. })),
        ("docker://a/B", |error| matches!(error, E::Image { .. })),
        ("docker://", |error| matches!(error, E::Image { .. })),
        ("./missing", |error| matches!(error, E::NoPath(_))),
        ("../missing", |error| matches!(error, E::NoPath(_))),
        ("missing.tgz", |error| matches!(error, E::NoPath(_))),
        ("file:///missing", |error| matches!(error, E::NoPath(_))),
        ("file:/x", |error| matches!(error, E::Form(_))),
        ("ftp://a.io/x", |error| matches!(error, E::Form(_))),
        ("samples/java@2.0.0", |error| matches!(error, E::Nothing(_))),
        ("https://a.io/x.tgz#sha256:1", |error| matches!(error, E::Address { .. })),
        ("https://user@a.io/x", |error| matches!(error, E::Address { .. })),
        ("https:///x", |error| matches!(error, E::Address { .. })),
        ("git+https://a.io/x#v1:../../etc", |error| matches!(error, E::Address { .. })),
        ("ssh://-oProxyCommand=x/y", |error| matches!(error, E::Address { .. })),
    ];
    for (text, is) in cases {
        let error = locate(text).expect_err(text);
        assert!(is(&error), "{text:?}: {error:?}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    for text in ["https://a.io/x.git#--upload-pack=x", "git@-a:b", "git+https://a.io/x#a..b"] {
        assert!(locate(text).is_err(), "{text}");
    }
    assert!(locate(&"a".repeat(3000)).is_err());
}

#[test]
fn passwords_are_neither_accepted_nor_repeated() {
    for text in ["https://me:hunter2@a.io/x.tgz", "git+https://me:hunter2@a.io/x#main"] {
        let error = locate(text).unwrap_err().to_string();
        assert!(error.contains("passwords") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn possible_paths_are_those_that_say_nothing_else() {
    for (text, path) in [
        ("./x", Some("./x")),
        ("samples/java", Some("samples/java")),
        ("file:///a/b", Some("/a/b")),
        ("file://localhost/a", Some("/a")),
        ("https://a.io/x", None),
        ("urn:cnb:builder:a", None),
        ("from=builder", None),
        ("docker://a", None),
        ("git@a.io:b", None),
        ("file://", None),
        ("", None),
    ] {
        assert_eq!(possible_local_path(text), path, "{text}");
    }
}
