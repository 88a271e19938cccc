//! Warnings, and requests that only ask.

use crate::support::{Memory, dockerfile};
use serde_json::Value;

fn ask(memory: Memory, request: &str) -> (Value, String, Memory) {
    let memory = memory.attr("requestid", request);
    let built = memory.run().unwrap_or_else(|error| panic!("{error}"));
    assert!(built.refs.is_empty());
    assert_eq!(built.metadata["version"], b"1.0.0");
    let json = serde_json::from_slice(&built.metadata["result.json"]).unwrap();
    let text = String::from_utf8(built.metadata["result.txt"].clone()).unwrap();
    (json, text, memory)
}

#[test]
fn targets_are_listed() {
    let text = "# build makes it\nFROM busybox AS build\nFROM --platform=linux/arm64 scratch\n";
    let (json, text, _) = ask(dockerfile(text), "frontend.targets");
    assert_eq!(json["targets"][0]["name"], "build");
    assert_eq!(json["targets"][0]["description"], "makes it");
    assert_eq!(json["targets"][0]["base"], "busybox");
    assert_eq!(json["targets"][0]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(json["targets"][1]["default"], true);
    assert_eq!(json["targets"][1]["platform"], "linux/arm64");
    assert_eq!(text, "TARGET    DESCRIPTION\nbuild     makes it\n(default) \n");
}

#[test]
fn outlines_name_what_can_be_given() {
    let text = "ARG BASE=busybox\nARG UNUSED=1\nFROM ${BASE} AS a\n# VER of it\nARG VER=2\n\
        RUN --mount=type=secret,id=s,required --mount=type=ssh x\nFROM a AS b\nARG BASE\nRUN y\n";
    let (json, text, _) = ask(dockerfile(text), "frontend.outline");
    let names: Vec<&str> =
        json["args"].as_array().unwrap().iter().map(|arg| arg["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["BASE", "VER"]);
    assert_eq!(json["name"], "b");
    assert_eq!(json["args"][1]["value"], "2");
    assert_eq!(json["secrets"][0]["name"], "s");
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["ssh"][0]["name"], "default");
    assert!(text.contains("BUILD ARG   VALUE     DESCRIPTION\n"), "{text}");
}

#[test]
fn requests_are_described_or_refused() {
    let (json, _, _) = ask(dockerfile("FROM busybox\n"), "frontend.subrequests.describe");
    let names: Vec<&str> =
        json.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"frontend.outline") && names.contains(&"frontend.targets"));
    let error = dockerfile("FROM busybox\n").attr("requestid", "frontend.x").error();
    assert_eq!(error.to_string(), "unsupported request frontend.x");
}

#[test]
fn lint_reports_every_stage() {
    let text = "FROM busybox AS a\nWORKDIR rel\nENV TOKEN=x\nFROM scratch\nCOPY $nope /\n";
    let memory = dockerfile(text).file("context/.dockerignore", "ignored\n");
    let (json, text, memory) = ask(memory, "frontend.lint");
    let rules: Vec<&str> = json["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|warning| warning["ruleName"].as_str().unwrap())
        .collect();
    assert_eq!(rules, ["WorkdirRelativePath", "SecretsUsedInArgOrEnv", "UndefinedVar"]);
    assert_eq!(json["warnings"][0]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert!(
        text.contains("WARNING: WorkdirRelativePath - https://docs.docker.com/go/dockerfile/rule/"),
        "{text}"
    );
    assert!(memory.warnings().is_empty());
    let (json, _, memory) = ask(dockerfile("FROM nothing\n"), "frontend.lint");
    assert!(json["warnings"].is_null());
    assert!(json["buildError"]["message"].as_str().unwrap().contains("not found"));
    assert_eq!(json["buildError"]["location"]["ranges"][0]["start"]["line"], 1);
    assert_eq!(memory.run().unwrap().metadata["result.statuscode"], b"1");
}

#[test]
fn builds_warn() {
    let text = "ARG empty\nFROM busybox AS x\nCMD a\nCMD b\nENTRYPOINT c\nEXPOSE 80/TCP 1.2.3.4:80:81\nLABEL a b\n\
        COPY skipped /\nFROM --platform=$TARGETPLATFORM x\nFROM --platform=linux/amd64 busybox AS y\n\
        FROM x\nRUN echo $undefined\nUSER $undefined\nARG empt\nENV Z=$empyt\n";
    let memory = dockerfile(text).file("context/.dockerignore", "skipped\n");
    memory.run().unwrap_or_else(|error| panic!("{error}"));
    let warnings = memory.warnings().join("\n");
    for expected in [
        "MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage",
        "JSONArgsRecommended: JSON arguments recommended for CMD",
        "JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT",
        "ExposeProtoCasing",
        "ExposeInvalidFormat",
        "LegacyKeyValueFormat",
        "CopyIgnoredFile: Attempting to Copy file \"skipped\" that is excluded by .dockerignore (line 8)",
        "RedundantTargetPlatform",
        "FromPlatformFlagConstDisallowed",
        "UndefinedVar: Usage of undefined variable '$undefined' (line 13)",
        "UndefinedVar: Usage of undefined variable '$empyt'",
    ] {
        assert!(warnings.contains(expected), "no {expected} in\n{warnings}");
    }
    let warning = memory.warnings.lock().unwrap()[0].clone();
    assert_eq!(warning.level, 1);
    assert!(warning.url.starts_with("https://docs.docker.com/go/dockerfile/rule/"));
    assert_eq!(warning.source.filename, "Dockerfile");
}

#[test]
fn bases_are_checked() {
    let arm = r#"{"architecture":"arm64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:aa"]}}"#;
    let memory =
        dockerfile("ARG tag\nFROM busybox:$tag AS a\nFROM arm AS b\nFROM busybox${taag}\n")
            .attr("build-arg:tag", "latest")
            .attr("platform", "linux/amd64")
            .attr("target", "b")
            .image("docker.io/library/arm:latest", arm);
    memory.run().unwrap_or_else(|error| panic!("{error}"));
    let warnings = memory.warnings().join("\n");
    for expected in [
        "InvalidDefaultArgInFrom",
        "InvalidBaseImagePlatform: Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 3)",
        "UndefinedArgInFrom: FROM argument 'taag' is not declared (did you mean tag?)",
    ] {
        assert!(warnings.contains(expected), "no {expected} in\n{warnings}");
    }
}

#[test]
fn warnings_can_be_errors() {
    let text = "# check=error=true\nFROM busybox\nCMD a\n";
    let memory = dockerfile(text);
    let error = memory.error();
    assert_eq!(error.to_string(), "lint violation found for rules: JSONArgsRecommended");
    assert_eq!(memory.warnings().len(), 1);
    let skipped = dockerfile(text).attr("build-arg:BUILDKIT_DOCKERFILE_CHECK", "skip=all");
    assert!(skipped.run().is_ok());
    assert!(skipped.warnings().is_empty());
}
