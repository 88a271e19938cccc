#![allow(clippy::unwrap_used)]
use cofferdam_digest::Digest;

use super::*;
use crate::trust::{Trust, TrustEntry};

/// What one row of the table starts from.
struct Case {
    /// What it shows.
    name: &'static str,
    builder: &'static str,
    configured: &'static [&'static str],
    denied: &'static [&'static str],
    trust_builder: bool,
    modules: Vec<ModuleOrigin>,
    trust_extra: bool,
    extensions_in_order: bool,
    expected: Expected,
}

/// What one row of the table ends in.
struct Expected {
    flow: Flow,
    /// A part of the reason.
    reason: &'static str,
    modules: &'static [&'static str],
    warns: bool,
}

const KNOWN: &str = "heroku/builder:24";

impl Default for Case {
    fn default() -> Self {
        let expected = Expected {
            flow: Flow::Trusted,
            reason: "is a known builder",
            modules: &[],
            warns: false,
        };
        Self {
            name: "",
            builder: KNOWN,
            configured: &[],
            denied: &[],
            trust_builder: false,
            modules: Vec::new(),
            trust_extra: false,
            extensions_in_order: false,
            expected,
        }
    }
}

fn trusted(reason: &'static str) -> Expected {
    Expected { flow: Flow::Trusted, reason, modules: &[], warns: false }
}

fn untrusted(reason: &'static str) -> Expected {
    Expected { flow: Flow::Untrusted, reason, modules: &[], warns: false }
}

fn changed(reason: &'static str, modules: &'static [&'static str]) -> Expected {
    Expected { flow: Flow::Untrusted, reason, modules, warns: true }
}

fn fetched(module: &str, option: &str) -> ModuleOrigin {
    let kind = if option == "--extension" { Kind::Extension } else { Kind::Buildpack };
    let source = Source::Fetched { locator: "./x".to_owned(), option: option.to_owned() };
    ModuleOrigin { module: module.to_owned(), source, kind }
}

fn of(source: Source, kind: Kind) -> ModuleOrigin {
    ModuleOrigin { module: "samples/x@1.0.0".to_owned(), source, kind }
}

fn own() -> ModuleOrigin {
    of(Source::Builder, Kind::Buildpack)
}

fn inline() -> ModuleOrigin {
    ModuleOrigin { module: "me/inline@0.0.0".to_owned(), ..of(Source::Inline, Kind::Buildpack) }
}

fn run(case: Case) {
    let Case { name, builder, configured, denied, trust_builder, .. } = case;
    let list = |texts: &[&str]| {
        texts.iter().map(|text| TrustEntry::parse(text).unwrap()).collect::<Vec<_>>()
    };
    let trust = Trust::new(list(configured), list(denied), trust_builder);
    let verdict = trust.judge(builder, Digest::of(b"builder")).unwrap();
    let made = decide(&verdict, &case.modules, case.trust_extra, case.extensions_in_order);
    let Expected { flow, reason, modules, warns } = case.expected;
    assert_eq!(made.flow, flow, "{name}: {made:?}");
    assert!(made.reason.contains(reason), "{name}: {}", made.reason);
    assert_eq!(made.modules, modules, "{name}");
    let warnings: &[&str] = if warns { &[DOWNGRADE_WARNING] } else { &[] };
    assert_eq!(made.warnings, warnings, "{name}");
}

/// Trust of the builder: known list, configuration, flag.
fn trust_rows() -> Vec<Case> {
    let row = |name, builder, expected| Case { name, builder, expected, ..Case::default() };
    let configured = |name, builder, configured, expected| Case {
        name,
        builder,
        configured,
        expected,
        ..Case::default()
    };
    let neither = || untrusted("the builder is neither known nor trusted by an entry");
    vec![
        row(
            "a known builder",
            KNOWN,
            trusted("the builder is a known builder (docker.io/heroku/builder:24)"),
        ),
        row(
            "its full name, unlike pack",
            "docker.io/heroku/builder:24",
            trusted("is a known builder"),
        ),
        row(
            "its name with a digest nobody named",
            "heroku/builder:24@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            neither(),
        ),
        row("its name in another registry", "evil.io/heroku/builder:24", neither()),
        row("another tag of it", "heroku/builder:18", neither()),
        row("an unknown builder", "somebody/builder", neither()),
        configured(
            "the same path elsewhere, unlike pack",
            "evil.io/team/b:1",
            &["good.io/team/b"],
            neither(),
        ),
        configured(
            "another tag than the entry's",
            "good.io/team/b:2",
            &["good.io/team/b:1"],
            neither(),
        ),
        configured(
            "an entry without tag",
            "good.io/team/b:2",
            &["good.io/team/b"],
            trusted("is trusted by the entry good.io/team/b"),
        ),
        configured(
            "an entry with the tag",
            "good.io/team/b:1",
            &["good.io/team/b:1"],
            trusted("is trusted by the entry good.io/team/b:1"),
        ),
        Case {
            name: "--trust-builder",
            builder: "somebody/builder",
            trust_builder: true,
            expected: trusted("the builder is trusted by --trust-builder and only its own modules"),
            ..Case::default()
        },
        Case {
            name: "a deny entry against the flag and the known list",
            denied: &["heroku/builder"],
            trust_builder: true,
            expected: untrusted("the builder is denied by the entry docker.io/heroku/builder"),
            ..Case::default()
        },
    ]
}

/// Modules with a trusted builder.
fn module_rows() -> Vec<Case> {
    const ADDED: &str = "buildpacks were added that are not in the builder: ";
    let row = |name, modules, expected| Case { name, modules, expected, ..Case::default() };
    let extra =
        |name, modules, expected| Case { trust_extra: true, ..row(name, modules, expected) };
    let local = || fetched("./x", "--buildpack");
    let extension = || fetched("./e", "--extension");
    vec![
        row("a module of the builder", vec![own()], trusted("only its own modules take part")),
        row("--buildpack", vec![local()], changed("./x (--buildpack)", &["./x"])),
        row(
            "--pre-buildpack",
            vec![fetched("p@1", "--pre-buildpack")],
            changed("p@1 (--pre-buildpack)", &["p@1"]),
        ),
        row(
            "--post-buildpack",
            vec![fetched("p@1", "--post-buildpack")],
            changed("p@1 (--post-buildpack)", &["p@1"]),
        ),
        row(
            "a descriptor's entry",
            vec![fetched("p@1", "project.toml")],
            changed("p@1 (project.toml)", &["p@1"]),
        ),
        row(
            "a package's dependencies count",
            vec![fetched("a@1", "--buildpack"), fetched("b@1", "--buildpack")],
            changed(ADDED, &["a@1", "b@1"]),
        ),
        row("own and added", vec![own(), local()], changed(ADDED, &["./x"])),
        extra(
            "--trust-extra-buildpacks",
            vec![local()],
            trusted("--trust-extra-buildpacks covers what was added: ./x (--buildpack)"),
        ),
        row(
            "an extension",
            vec![extension()],
            changed("extensions were added: ./e (--extension)", &["./e"]),
        ),
        extra(
            "an extension with the flag",
            vec![extension()],
            changed("extensions were added", &["./e"]),
        ),
        extra(
            "the flag covers the buildpack only",
            vec![local(), extension()],
            changed("extensions were added: ./e (--extension)", &["./e"]),
        ),
        row(
            "both, told once, in the order given",
            vec![local(), extension()],
            changed(
                "extensions were added: ./e (--extension); buildpacks were added",
                &["./x", "./e"],
            ),
        ),
        row(
            "inline only",
            vec![inline()],
            trusted("only its own modules and inline scripts take part"),
        ),
        row("inline and own", vec![inline(), own()], trusted("inline scripts")),
        row("inline and a local one", vec![inline(), local()], changed(ADDED, &["./x"])),
        extra("inline and a local one with the flag", vec![inline(), local()], trusted("covers")),
    ]
}

/// Extensions of the builder's own, and untrusted builders.
fn other_rows() -> Vec<Case> {
    let own_extension = || of(Source::Builder, Kind::Extension);
    let unknown = |name, modules, expected| Case {
        name,
        builder: "somebody/builder",
        modules,
        expected,
        ..Case::default()
    };
    let in_order = |name, modules, expected| Case {
        name,
        modules,
        extensions_in_order: true,
        expected,
        ..Case::default()
    };
    let neither = "the builder is neither known nor trusted by an entry";
    vec![
        in_order(
            "extensions in the builder's order",
            vec![],
            untrusted("the builder's order has extensions"),
        ),
        Case {
            trust_extra: true,
            ..in_order(
                "the same with the flag",
                vec![own()],
                untrusted("the builder's order has extensions"),
            )
        },
        in_order(
            "an extension of the builder by id",
            vec![own_extension()],
            Expected {
                modules: &["samples/x@1.0.0"],
                ..untrusted("the builder's order has extensions: samples/x@1.0.0")
            },
        ),
        in_order(
            "an added extension is in the order",
            vec![fetched("./e", "--extension")],
            changed("extensions were added: ./e (--extension)", &["./e"]),
        ),
        in_order(
            "an added buildpack beside them",
            vec![fetched("./x", "--buildpack")],
            changed("; the builder's order has extensions", &["./x"]),
        ),
        unknown("nothing added", vec![], untrusted(neither)),
        unknown("inline", vec![inline()], untrusted(neither)),
        unknown("own", vec![own()], untrusted(neither)),
        unknown(
            "added: no warning, as nothing is downgraded",
            vec![fetched("./x", "--buildpack")],
            Expected { modules: &["./x"], ..untrusted(neither) },
        ),
        Case {
            trust_extra: true,
            ..unknown(
                "the flag trusts no builder",
                vec![fetched("./x", "--buildpack")],
                untrusted(neither),
            )
        },
        Case {
            trust_builder: true,
            ..unknown(
                "--trust-builder and an added one",
                vec![fetched("./x", "--buildpack")],
                changed("./x (--buildpack)", &["./x"]),
            )
        },
        Case {
            trust_builder: true,
            trust_extra: true,
            ..unknown(
                "both flags",
                vec![fetched("./x", "--buildpack")],
                trusted("covers what was added"),
            )
        },
    ]
}

#[test]
fn every_row_of_the_table_holds() {
    trust_rows().into_iter().chain(module_rows()).chain(other_rows()).for_each(run);
}

#[test]
fn flows_have_their_phases() {
    assert_eq!(Flow::Trusted.phases(), ["prepare", "build", "export"]);
    assert_eq!(Flow::Untrusted.phases(), ["analyze", "detect", "restore", "build", "export"]);
    assert_eq!(serde_json::to_string(&Flow::Untrusted).unwrap(), "\"untrusted\"");
    assert_eq!(Flow::Trusted.name(), "trusted");
}

#[test]
fn a_name_neither_changes_the_flow_nor_the_terminal() {
    let mut module = fetched("heroku/builder:24\u{1b}[2J", "--buildpack\u{1b}");
    let trust = Trust::new(Vec::new(), Vec::new(), false);
    let verdict = trust.judge(KNOWN, Digest::of(b"")).unwrap();
    let made = decide(&verdict, &[module.clone(), module.clone()], false, false);
    assert_eq!((made.flow, made.modules.len()), (Flow::Untrusted, 1));
    assert!(!made.reason.contains('\u{1b}'), "{:?}", made.reason);
    module.source = Source::Inline;
    assert_eq!(decide(&verdict, &[module], false, false).flow, Flow::Trusted);
}
