//! Dockerfiles that are small but mean a lot: they end soon, with a graph or with a plain error.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::support::dockerfile;

/// Far above what any of these take, far below what they would take without limits.
const SOON: Duration = Duration::from_secs(20);

fn repeated(count: usize, line: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for index in 0..count {
        writeln!(text, "{}", line(index)).unwrap();
    }
    text
}

/// Lines of the form `KEYWORD a0=x a1=x …`, each within what one line may hold.
fn many(keyword: &str, count: usize) -> String {
    let indexes: Vec<usize> = (0..count).collect();
    let mut text = String::new();
    for chunk in indexes.chunks(5_000) {
        text.push_str(keyword);
        for index in chunk {
            write!(text, " a{index}=x").unwrap();
        }
        text.push('\n');
    }
    text
}

fn expect(text: &str, message: &str) {
    let started = Instant::now();
    let result = dockerfile(text).file("context/.dockerignore", "a\nb/*\n**/c\n").run();
    assert!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    match result {
        Ok(_) => assert_eq!(message, "", "the build should fail"),
        Err(error) => {
            let error = error.to_string();
            assert!(!message.is_empty() && error.contains(message), "{error}");
        }
    }
}

#[test]
fn variables_are_limited() {
    let message = "more than 2000 variables in a stage";
    expect(&format!("FROM busybox\n{}", many("ENV", 60_000)), message);
    expect(&format!("FROM busybox\n{}", many("ARG", 60_000)), message);
    expect(&format!("{}FROM busybox\n", many("ARG", 60_000)), message);
}

#[test]
fn what_multiplies_is_limited() {
    let message = "grows to more than 128 MiB";
    let steps = repeated(9_000, |index| format!("RUN {index}"));
    expect(&format!("FROM busybox\n{}{steps}", many("ENV", 1_900)), message);
    expect(&format!("FROM busybox\n{}{steps}", many("ARG", 1_900)), message);
    let stages = repeated(900, |index| format!("FROM s{index} AS s{}", index + 1));
    let labels = repeated(8_000, |index| format!("LABEL a={index}"));
    expect(&format!("FROM busybox AS s0\n{labels}{stages}"), message);
}

#[test]
fn long_files_are_converted() {
    expect(&format!("FROM busybox\n{}", repeated(9_000, |index| format!("RUN {index}"))), "");
    let stages = repeated(900, |index| format!("FROM busybox AS s{index}\nRUN {index}"));
    let copies = repeated(900, |index| format!("COPY --from=s{index} /a /{index}"));
    expect(&format!("{stages}FROM scratch\n{copies}"), "");
    let sources = "https://x/y ".repeat(5_000);
    expect(&format!("FROM busybox\nADD {sources} /d/\n"), "");
    let mounts =
        repeated(400, |index| format!("RUN {}x", format!("--mount=target=/{index} ").repeat(50)));
    expect(&format!("FROM busybox\n{mounts}"), "");
}

#[test]
fn warnings_end() {
    let lines = repeated(400, |line| {
        let words = (0..150).map(|word| format!("$undefined{line}_{word}"));
        format!("LABEL a={}", words.collect::<String>())
    });
    expect(&format!("FROM busybox\n{}{lines}", many("ENV", 1_900)), "");
    let slashes = "a/".repeat(30_000);
    expect(&format!("FROM busybox\n{}", repeated(15, |_| format!("COPY {slashes} /"))), "");
}

#[test]
fn hostile_base_images() {
    let base = |config: &str| {
        format!(
            r#"{{"architecture":"amd64","os":"linux","config":{config},"rootfs":{{"type":"layers","diff_ids":["sha256:aa"]}}}}"#
        )
    };
    let env: Vec<String> = (0..100_000).map(|index| format!("\"a{index}=x\"")).collect();
    let triggers = vec!["\"RUN x\""; 100_000].join(",");
    for (config, message) in [
        (format!(r#"{{"Env":[{}]}}"#, env.join(",")), "variables"),
        (format!(r#"{{"OnBuild":[{triggers}]}}"#), "triggers"),
        (r#"{"OnBuild":["FROM x"]}"#.to_owned(), "onbuild trigger should be a single expression"),
        (
            r#"{"OnBuild":["RUN a\nRUN b"]}"#.to_owned(),
            "onbuild trigger should be a single expression",
        ),
        (r#"{"OnBuild":["COPY --from=0 a b"]}"#.to_owned(), "it needs to be defined before"),
        (r#"{"Env":"x"}"#.to_owned(), "failed to parse image config"),
    ] {
        let started = Instant::now();
        let memory =
            dockerfile("FROM evil\n").image("docker.io/library/evil:latest", &base(&config));
        let error = memory.error().to_string();
        assert!(error.contains(message), "{error}");
        assert!(started.elapsed() < SOON);
    }
}
