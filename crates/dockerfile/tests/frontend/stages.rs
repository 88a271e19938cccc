//! Stages: names of vertices, bases, arguments, platforms, triggers.

use crate::support::{Output, dockerfile};
use cofferdam_digest::Digest;

#[test]
fn a_simple_build() {
    let output =
        dockerfile("FROM busybox\nWORKDIR /app\nCOPY . .\nRUN make\nCMD [\"x\"]\n").result();
    let digest = Digest::of("docker.io/library/busybox:latest");
    assert_eq!(
        output.names(),
        [
            format!("[1/4] FROM docker.io/library/busybox:latest@{digest}"),
            "[2/4] WORKDIR /app".to_owned(),
            "[internal] load build context".to_owned(),
            "[3/4] COPY . .".to_owned(),
            "[4/4] RUN make".to_owned(),
        ]
    );
    let exec = output.exec("RUN make");
    assert_eq!(exec.meta.args, ["/bin/sh", "-c", "make"]);
    assert_eq!(exec.meta.env, ["PATH=/bin"]);
    assert_eq!(exec.meta.cwd, "/app");
    assert_eq!(exec.mounts.len(), 1);
    assert_eq!((exec.mounts[0].input, exec.mounts[0].output), (0, 0));
    assert_eq!(output.image.config.cmd, ["x"]);
    assert_eq!(output.image.config.working_dir, "/app");
    assert_eq!(output.image.created, None);
    assert_eq!(
        output.created_by(),
        [
            "base",
            "WORKDIR /app",
            "COPY . . # buildkit",
            "RUN /bin/sh -c make # buildkit",
            "CMD [\"x\"]"
        ]
    );
    let layers: Vec<bool> = output.image.history.iter().map(|entry| !entry.empty_layer).collect();
    assert_eq!(layers, [true, true, true, true, false]);
    assert!(output.built.single);
    let base =
        String::from_utf8(output.built.metadata["containerimage.base.config"].clone()).unwrap();
    assert!(base.contains("\"Cmd\":[\"sh\"]"), "{base}");
}

#[test]
fn equal_requests_give_equal_graphs() {
    let text = "FROM busybox\nARG A=1\nENV B=$A\nCOPY --link a b /x/\nRUN --mount=type=cache,target=/c id\n";
    let one = dockerfile(text).run().unwrap();
    let two = dockerfile(text).run().unwrap();
    let (one, two) =
        (one.refs[0].definition.as_ref().unwrap(), two.refs[0].definition.as_ref().unwrap());
    assert_eq!(one.def, two.def);
    assert_eq!(one.metadata, two.metadata);
}

#[test]
fn stages_that_nobody_needs_are_left_out() {
    let text = "FROM missing AS unused\nRUN a\nFROM busybox AS build\nRUN b\nFROM scratch\n\
                COPY --from=build /out /\n";
    let memory = dockerfile(text);
    let output = memory.result();
    assert_eq!(output.names().len(), 3, "{:?}", output.names());
    assert!(output.names()[1].starts_with("[build 2/2] RUN b"));
    assert!(output.names()[2].starts_with("[stage-2 1/1] COPY --from=build /out /"));
    assert_eq!(output.image.config.working_dir, "/");
    let looked_up = memory.looked_up.lock().unwrap();
    assert_eq!(*looked_up, ["[internal] load metadata for docker.io/library/busybox:latest"]);
}

#[test]
fn targets_by_name_and_index() {
    let text = "FROM busybox AS One\nRUN a\nFROM busybox AS two\nRUN b\n";
    for target in ["one", "ONE", "0"] {
        let output = dockerfile(text).attr("target", target).result();
        assert!(output.names()[1].ends_with("RUN a"), "{target}: {:?}", output.names());
    }
    let error = dockerfile(text).attr("target", "twoo").error();
    assert_eq!(error.to_string(), "target stage \"twoo\" could not be found (did you mean two?)");
}

#[test]
fn arguments_and_their_scopes() {
    let text = "ARG BASE=alpine\nARG SHARED=global\nFROM ${BASE}\nRUN before\nARG SHARED\nARG OWN=x$SHARED\n\
                ARG NONE\nENV OWN2=$OWN\nRUN after\n";
    let output = dockerfile(text).attr("build-arg:BASE", "busybox").result();
    assert!(output.names()[0].contains("busybox"));
    assert_eq!(output.exec("RUN before").meta.env, ["PATH=/bin"]);
    let env = &output.exec("RUN after").meta.env;
    assert_eq!(*env, ["PATH=/bin", "SHARED=global", "OWN=xglobal", "OWN2=xglobal"]);
    assert_eq!(output.image.config.env, ["PATH=/bin", "OWN2=xglobal"]);
    let line = "RUN |3 SHARED=global OWN=xglobal NONE= /bin/sh -c after # buildkit";
    assert!(output.created_by().contains(&line), "{:?}", output.created_by());
    let output = dockerfile(text).attr("build-arg:OWN", "given").result();
    assert!(output.exec("RUN after").meta.env.contains(&"OWN=given".to_owned()));
}

#[test]
fn platform_arguments() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN cross\nFROM scratch\n\
                ARG TARGETSTAGE\nENV S=$TARGETSTAGE\nCOPY --from=build /x /\n";
    let built = dockerfile(text).attr("platform", "linux/amd64,linux/arm64").run().unwrap();
    assert!(!built.single);
    let platforms: serde_json::Value =
        serde_json::from_slice(&built.metadata["refs.platforms"]).unwrap();
    assert_eq!(platforms["Platforms"][1]["ID"], "linux/arm64");
    assert_eq!(platforms["Platforms"][1]["Platform"]["architecture"], "arm64");
    let output = Output::new(built, 1);
    assert_eq!(output.image.architecture, "arm64");
    assert_eq!(output.image.env("S"), Some("default"));
    let name = output.vertex("RUN cross").name();
    assert_eq!(name, "[linux/amd64->arm64 build 2/2] RUN cross");
    assert_eq!(output.vertex("RUN cross").op.platform.Architecture, "amd64");
    assert!(output.exec("RUN cross").meta.env.contains(&"TARGETARCH=arm64".to_owned()));
}

#[test]
fn stages_inherit_from_stages() {
    let text = "FROM busybox AS a\nENV X=1\nARG Y=2\nWORKDIR /w\nUSER u\nFROM a\nRUN id\n";
    let output = dockerfile(text).result();
    let exec = output.exec("RUN id");
    assert_eq!(exec.meta.env, ["Y=2", "PATH=/bin", "X=1"]);
    assert_eq!((exec.meta.cwd.as_str(), exec.meta.user.as_str()), ("/w", "u"));
    assert_eq!(output.vertex("RUN id").name(), "[stage-1 1/1] RUN id");
    assert!(output.created_by().contains(&"USER u"));
}

#[test]
fn triggers_run_in_the_child() {
    let config = r#"{"architecture":"amd64","os":"linux","config":{"OnBuild":["RUN one",
        "COPY --from=alpine /a /b"]},"rootfs":{"type":"layers","diff_ids":["sha256:aa"]}}"#;
    let memory = dockerfile("FROM base AS x\nONBUILD RUN two\nFROM x\nRUN three\n")
        .image("docker.io/library/base:latest", config);
    let output = memory.result();
    let runs: Vec<String> =
        output.names().into_iter().filter(|name| name.contains("] ONBUILD")).collect();
    assert_eq!(
        runs,
        [
            "[x 2/3] ONBUILD RUN one",
            "[x 3/3] ONBUILD COPY --from=alpine /a /b",
            "[stage-1 1/2] ONBUILD RUN two"
        ]
    );
    assert!(output.image.config.on_build.is_empty());
    let kept = dockerfile("FROM busybox\nONBUILD RUN a\n").result();
    assert_eq!(kept.image.config.on_build, ["RUN a"]);
}

#[test]
fn wrong_stages_are_errors_with_places() {
    for (text, message, line) in [
        ("FROM busybox\nCOPY --from=$x a b\n", "variable expansion is not supported for --from", 2),
        (
            "FROM busybox AS a\nCOPY --from=b a b\nFROM busybox AS b\nCOPY --from=a a b\n",
            "circular dependency detected on stage: a",
            2,
        ),
        (
            "FROM busybox AS a\nCOPY --from=b x /\nFROM busybox AS b\nFROM a\n",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
            2,
        ),
        ("FROM busybox AS a\nCOPY --from=7 x /\n", "invalid stage index 7", 2),
        ("FROM $nothing\n", "base name ($nothing) should not be blank", 1),
        ("FROM --platform=$x busybox\n", "empty platform value from expression $x", 1),
        ("FROM --platform=a/b/c/d busybox\n", "failed to parse platform a/b/c/d", 1),
        (
            "FROM busybo\n",
            "busybo: docker.io/library/busybo:latest: not found (did you mean busybox?)",
            1,
        ),
        ("FROM bad:://x\n", "failed to parse stage name", 1),
        ("FROM busybox\nRUN a\nSTOPSIGNAL x\n", "invalid signal: x", 3),
        ("FROM busybox\nENV A=\"${B:?missing b}\"\n", "missing b", 2),
    ] {
        let error = dockerfile(text).error();
        assert!(error.to_string().contains(message), "{error}");
        let sources = error.sources();
        assert!(!sources.is_empty(), "{error}");
        assert_eq!(sources[0].1[0].start.line, line, "{error}");
        assert_eq!(sources[0].0.filename, "Dockerfile");
        assert_eq!(sources[0].0.language, "Dockerfile");
        assert!(!sources[0].0.definition.def.is_empty());
    }
    assert!(dockerfile("").error().to_string().contains("the Dockerfile cannot be empty"));
}

#[test]
fn ops_point_at_their_lines() {
    let output = dockerfile("FROM busybox\n\nRUN a \\\n  b\n").result();
    let sources = &output.vertex("RUN a").sources;
    assert_eq!(sources.len(), 1);
    let lines: Vec<i32> = sources[0].ranges.iter().map(|range| range.start.line).collect();
    assert_eq!(lines, [3, 4]);
    assert_eq!(sources[0].info.filename, "Dockerfile");
}
