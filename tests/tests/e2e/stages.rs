//! Stages, platforms, named contexts, .dockerignore, where the Dockerfile comes from.

use std::time::{Duration, Instant};

use cofferdam_tests::{Builder, Context};

#[test]
fn stages_nobody_needs_are_skipped() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox AS unused\nRUN false\nFROM @busybox AS tool\nRUN echo tool > /tool\nFROM scratch AS wanted\nCOPY --from=tool /tool /tool\n\
         FROM tool AS last\nRUN echo last > /last\n",
    );
    let outcome = builder.build(&context).run().success();
    assert!(!outcome.mentions("unused"), "{}", outcome.stderr);
    let files = builder.build(&context).args("--target wanted").tar();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["tool"]);
    let image = builder.build(&context).args("--target LAST").image();
    assert_eq!(image.text("last"), "last\n");
    assert_eq!(image.text("tool"), "tool\n");
    // By number too.
    let files = builder.build(&context).args("--target 2").tar();
    assert!(files.contains_key("tool"));
}

#[test]
fn independent_stages_run_at_once() {
    let builder = Builder::plain();
    // Each waits for a sign of the other: built one after the other, both fail.
    let wait = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c,id=meet touch /c/{own}; for i in $(seq 100); do [ -e /c/{other} ] && exit 0; sleep 0.1; done; exit 1"
        )
    };
    let context = Context::dockerfile(&format!(
        "FROM @busybox AS a\n{}\nFROM @busybox AS b\n{}\nFROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n",
        wait("a", "b"),
        wait("b", "a"),
    ));
    let begun = Instant::now();
    let files = builder.build(&context).tar();
    assert!(files.contains_key("a") && begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn ignored_files_are_not_sent_and_their_change_rebuilds_nothing() {
    let builder = Builder::plain();
    let context = Context::new(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        (
            ".dockerignore",
            "# comment\n*.log\nskip\n!skip/kept\n**/deep.tmp\n!important.log\nDockerfile\n.dockerignore\n",
        ),
        ("a.log", "log"),
        ("important.log", "important"),
        ("keep", "keep"),
        ("skip/gone", "gone"),
        ("skip/kept", "kept"),
        ("x/y/deep.tmp", "tmp"),
        ("x/y/z", "z"),
        ("x/b.log", "only patterns with ** match below"),
    ]);
    let files = builder.build(&context).tar();
    let names: Vec<&str> = files
        .iter()
        .filter(|(_, entry)| entry.kind == 'f')
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(names, ["important.log", "keep", "skip/kept", "x/b.log", "x/y/z"]);
    context.write("a.log", "another");
    let outcome = builder.build(&context).run().success();
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    // The file for one Dockerfile wins over the general one.
    context
        .write("other.Dockerfile", "FROM scratch\nCOPY . /\n")
        .write("other.Dockerfile.dockerignore", "**\n!keep\n");
    let files = builder.build(&context).arg("-f").arg(context.join("other.Dockerfile")).tar();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["keep"]);
}

#[test]
fn named_contexts_replace_stages_and_images() {
    let builder = Builder::plain();
    let other = Context::new(&[("file", "from another directory")]);
    let context = Context::dockerfile(
        "FROM replaced.example/image:1 AS base\nRUN true\nFROM scratch\nCOPY --from=files /file /f\nCOPY --from=base /etc/passwd /p\n",
    );
    let files = builder
        .build(&context)
        .arg("--build-context")
        .arg(format!("files={}", other.path().display()))
        .arg("--build-context")
        .arg(format!(
            "replaced.example/image:1=docker-image://{}",
            cofferdam_tests::images::busybox()
        ))
        .tar();
    assert_eq!(files["f"].text(), "from another directory");
    assert!(files["p"].text().starts_with("root:"));
}

#[test]
fn an_oci_layout_is_a_context() {
    let builder = Builder::plain();
    let layout = tempfile::tempdir().unwrap();
    let made = Context::dockerfile("FROM scratch\nCOPY Dockerfile /marker\nENV FROM_LAYOUT=yes\n");
    let outcome = builder.build(&made).args("-t local/base:1 -o type=oci,dest=-").run().success();
    tar::Archive::new(&*outcome.stdout).unpack(layout.path()).unwrap();
    let context = Context::dockerfile("FROM base\nENV MORE=1\n");
    let image = builder
        .build(&context)
        .arg("--build-context")
        .arg(format!("base=oci-layout://{}", layout.path().display()))
        .image();
    assert!(
        image.env().contains(&"FROM_LAYOUT=yes") && image.env().contains(&"MORE=1"),
        "{:?}",
        image.env()
    );
    assert!(image.files().contains_key("marker"));
}

#[test]
fn dockerfiles_come_from_other_places_and_from_standard_input() {
    let builder = Builder::plain();
    let context =
        Context::new(&[("docker/My.Dockerfile", "FROM scratch\nCOPY file /f\n"), ("file", "f")]);
    let files = builder.build(&context).arg("-f").arg(context.join("docker/My.Dockerfile")).tar();
    assert_eq!(files["f"].text(), "f");
    let text = Context::new(&[("text", "FROM scratch\nCOPY file /stdin\n")]);
    let files = builder.build(&context).args("-f -").stdin(&text.join("text")).tar();
    assert_eq!(files["stdin"].text(), "f");
}

#[test]
fn several_platforms_become_an_index() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM scratch\nARG TARGETPLATFORM\nLABEL platform=$TARGETPLATFORM\nCOPY Dockerfile /d\n",
    );
    let registry = cofferdam_tests::Registry::start();
    let name = registry.reference("multi:1");
    let _ = builder
        .build(&context)
        .args("--platform linux/amd64,linux/arm64 --push -t")
        .arg(&name)
        .run()
        .success();
    let (_, index) = registry.manifest("multi", "1").unwrap();
    let platforms: Vec<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            format!(
                "{}/{}",
                entry["platform"]["os"].as_str().unwrap(),
                entry["platform"]["architecture"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let arm = index["manifests"][1]["digest"].as_str().unwrap();
    let image = registry.pull("multi", arm);
    assert_eq!(image.setting("Labels")["platform"], "linux/arm64");
    assert_eq!(image.config["architecture"], "arm64");
}
