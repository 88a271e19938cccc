//! Where things come from: Dockerfiles, contexts, named contexts, ignore files, epochs.

use std::collections::HashMap;

use crate::support::dockerfile;
use base64::Engine as _;
use cofferdam_digest::Digest;
use cofferdam_wire::pb;
use pb::__buffa::oneof::op::Op;

#[test]
fn dockerfile_and_ignore_files() {
    let memory =
        dockerfile("FROM busybox\nCOPY a /\n").file("context/.dockerignore", "*.md\n!x\n# c\n");
    let output = memory.result();
    let context = output.source("local://context");
    assert_eq!(context.attrs["local.excludepatterns"], "[\"*.md\",\"!x\"]");
    let own = dockerfile("FROM busybox\nCOPY a /\n")
        .file("context/.dockerignore", "general\n")
        .file("dockerfile/Dockerfile.dockerignore", "own\n");
    let attrs = own.result();
    assert_eq!(attrs.source("local://context").attrs["local.excludepatterns"], "[\"own\"]");
    let info = &output.vertex("COPY").sources[0].info;
    let load =
        cofferdam_graph::load(&info.definition, &cofferdam_graph::Limits::default()).unwrap();
    let vertex = load.vertices().next().unwrap();
    assert_eq!(vertex.name(), "[internal] load build definition from Dockerfile");
    let source = crate::support::source_op(vertex);
    assert_eq!(source.identifier, "local://dockerfile");
    assert_eq!(
        source.attrs["local.followpaths"],
        "[\"Dockerfile\",\"Dockerfile.dockerignore\",\"dockerfile\"]"
    );
    assert_eq!(source.attrs["local.differ"], "none");
}

#[test]
fn lower_case_and_missing_files() {
    let mut memory = dockerfile("");
    memory.files = HashMap::new();
    let memory = memory.file("dockerfile/dockerfile", "FROM busybox\n");
    assert_eq!(memory.result().names().len(), 1);
    let error = memory.attr("filename", "other").error();
    assert_eq!(
        error.to_string(),
        "failed to read dockerfile: open other: no such file or directory"
    );
}

#[test]
fn remote_contexts() {
    let git = "https://x.y/r.git#main:sub";
    let memory = dockerfile("")
        .file("git://x.y/r.git#main:sub/Dockerfile", "FROM busybox\nCOPY a /\n")
        .attr("context", git);
    let output = memory.result();
    assert_eq!(output.source("git://").attrs["git.fullurl"], "https://x.y/r.git");
    assert!(output.names().contains(&format!("[internal] load git source {git}")));
    let text = "FROM busybox\nRUN x\n";
    let plain = dockerfile("").file("https://x.y/d/context", text).attr("context", "https://x.y/d");
    assert_eq!(plain.result().names().len(), 2);
    let mut archive = dockerfile("").attr("context", "https://x.y/d.tgz");
    archive.files.insert("https://x.y/d.tgz/context".to_owned(), vec![0x1f, 0x8b, 8, 0]);
    let archive = archive.file("https://x.y/d.tgz/Dockerfile", "FROM busybox\nCOPY a /\n");
    let output = archive.result();
    let unpack = output.graph.vertices().find(|vertex| matches!(&vertex.op.op, Some(Op::File(file))
        if matches!(&file.actions[0].action, Some(pb::__buffa::oneof::file_action::Action::Copy(copy))
            if copy.src == "/context" && copy.attemptUnpackDockerCompatibility)));
    assert!(unpack.is_some(), "{:?}", output.names());
}

#[test]
fn named_images_replace_images_and_stages() {
    let memory = dockerfile("FROM alpine AS build\nRUN a\nFROM scratch\nCOPY --from=build /x /\nCOPY --from=tool /t /\n")
        .attr("context:alpine", "docker-image://busybox")
        .attr("context:tool::linux/amd64", "docker-image://alpine:latest")
        .attr("context:tool", "docker-image://never");
    let output = memory.result();
    let names = output.names();
    assert!(names.contains(&"[context alpine] busybox".to_owned()), "{names:?}");
    assert!(names.contains(&"[context tool::linux/amd64] alpine:latest".to_owned()), "{names:?}");
    let stage = dockerfile("FROM missing AS build\nRUN a\nFROM scratch\nCOPY --from=build /x /\n")
        .attr("context:build", "docker-image://busybox");
    let names = stage.result().names();
    assert_eq!(names[0], "[context build] busybox");
    assert!(!names.iter().any(|name| name.contains("RUN")), "{names:?}");
}

#[test]
fn named_directories_send_what_is_used() {
    let memory = dockerfile("FROM scratch\nCOPY --from=dir /a/b /\nCOPY --from=dir c /\n")
        .attr("context:dir", "local:there")
        .attr("local-sessionid:there", "other")
        .attr("sharedkey:localdir:dir", "key")
        .file("there/.dockerignore", "no\n");
    let output = memory.result();
    let source = output.source("local://there");
    assert_eq!(source.attrs["local.followpaths"], "[\"a/b\",\"c\"]");
    assert_eq!(source.attrs["local.excludepatterns"], "[\"no\"]");
    assert_eq!(source.attrs["local.session"], "other");
    assert_eq!(source.attrs["local.sharedkeyhint"], "context:dir-key");
    assert!(output.names().contains(&"[context dir] load from client".to_owned()));
}

#[test]
fn rules_may_put_a_directory_in_the_place_of_a_named_image() {
    let mut memory = dockerfile("FROM scratch AS dir\nFROM scratch\nCOPY --from=dir /a /\n")
        .attr("context:dir", "docker-image:alpine")
        .file("there/.dockerignore", "no\n");
    let converted = [("docker.io/library/alpine:latest", "local://there")];
    memory.converted =
        converted.into_iter().map(|(from, to)| (from.to_owned(), to.to_owned())).collect();
    let output = memory.result();
    let source = output.source("local://there");
    assert_eq!(source.attrs["local.followpaths"], "[\"a\"]");
    assert_eq!(source.attrs["local.excludepatterns"], "[\"no\"]");
    assert!(output.names().contains(&"[context dir] load from client".to_owned()));
    let again = "docker-image://alpine".to_owned();
    memory.converted.insert("docker.io/library/alpine:latest".to_owned(), again);
    assert!(memory.error().to_string().contains("without end"));
}

#[test]
fn inputs_are_grafted() {
    let inner = dockerfile("FROM busybox\nRUN inner\n").run().unwrap();
    let config =
        base64::engine::general_purpose::STANDARD.encode(&inner.metadata["containerimage.config"]);
    let mut memory = dockerfile("FROM base\nRUN outer\n")
        .attr("context:base", "input:dep")
        .attr("input-metadata:dep", &format!(r#"{{"containerimage.config":"{config}"}}"#));
    memory.inputs.insert("dep".to_owned(), inner.refs[0].definition.clone().unwrap());
    let output = memory.result();
    let names: Vec<String> = output.names();
    assert!(names[1].ends_with("RUN inner") && names[2].ends_with("RUN outer"), "{names:?}");
    assert!(output.created_by().contains(&"RUN /bin/sh -c inner # buildkit"));
    let error = dockerfile("FROM base\n").attr("context:base", "input:nothing").error();
    assert_eq!(error.to_string(), "invalid input nothing for base");
}

#[test]
fn layouts_name_their_store() {
    let digest = Digest::of("m");
    let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:aa"]}}"#;
    let memory = dockerfile("FROM foo\nRUN x\n")
        .attr("context:foo", &format!("oci-layout://store:tag@{digest}"))
        .image("store", config);
    let output = memory.result();
    let source = output.source(&format!("oci-layout://docker.io/library/foo@{digest}"));
    assert_eq!(source.attrs["oci.store"], "store");
    assert_eq!(source.attrs["oci.session"], "session");
    for (value, message) in [
        ("oci-layout://store:tag", "has no digest"),
        ("nothing", "invalid context specifier nothing for foo"),
        ("what:x", "unsupported context source what for foo"),
    ] {
        let error = dockerfile("FROM foo\n").attr("context:foo", value).error();
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn epochs() {
    let text = "FROM busybox\nWORKDIR /w\nARG SOURCE_DATE_EPOCH\nRUN x\n";
    let output = dockerfile(text).attr("build-arg:SOURCE_DATE_EPOCH", "1700000000").result();
    assert_eq!(output.built.metadata["source.date.epoch"], b"1700000000");
    assert_eq!(output.image.history[1].created.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(output.exec("RUN x").meta.env.contains(&"SOURCE_DATE_EPOCH=1700000000".to_owned()));
    let mut memory = dockerfile("FROM scratch AS when\nADD https://x/y /\nFROM busybox\nRUN x\n")
        .attr("build-arg:SOURCE_DATE_EPOCH", "when");
    memory.epoch = Some(7);
    assert_eq!(memory.result().built.metadata["source.date.epoch"], b"7");
    assert!(memory.looked_up.lock().unwrap()[0].ends_with("source stage when"));
    let wrong = "FROM scratch AS when\nADD https://x/y /\nRUN a\nFROM busybox\n";
    let error = dockerfile(wrong).attr("build-arg:SOURCE_DATE_EPOCH", "when").error();
    assert!(
        error
            .to_string()
            .contains("SOURCE_DATE_EPOCH stage does not meet source-only requirements")
    );
    let error = dockerfile(text).attr("build-arg:SOURCE_DATE_EPOCH", "nope").error();
    assert_eq!(error.to_string(), "invalid SOURCE_DATE_EPOCH: nope");
}

#[test]
fn other_frontends() {
    let text = "# syntax=example.com/other:1\nFROM busybox\n";
    let error = dockerfile(text).error();
    assert!(error.to_string().contains("example.com/other:1"), "{error}");
    assert_eq!(error.sources()[0].1[0].start.line, 1);
    for own in [
        "docker/dockerfile:1",
        "docker/dockerfile:1.7-labs",
        "docker.io/docker/dockerfile-upstream:master",
    ] {
        let text = format!("# syntax={own}\nFROM busybox\n");
        assert_eq!(dockerfile(&text).result().names().len(), 1);
    }
    let error = dockerfile("FROM busybox\n").attr("frontend.caps", "a.b.c").error();
    assert_eq!(error.to_string(), "unsupported frontend capability a.b.c");
    let caps = "moby.buildkit.frontend.subrequests+forward,moby.buildkit.frontend.inputs";
    assert!(dockerfile("FROM busybox\n").attr("frontend.caps", caps).run().is_ok());
}
