//! Instructions one by one: the ops and configurations they give.

use crate::support::{dockerfile, exec_op};
use cofferdam_wire::pb;
use pb::__buffa::oneof::op::Op;
use pb::__buffa::oneof::user_opt::User;

#[test]
fn copies() {
    let text =
        "FROM busybox\nWORKDIR /w\nCOPY --chown=u:7 --chmod=0640 --exclude=*.md a/../b c* d/\n";
    let output = dockerfile(text).result();
    let Some(Op::File(file)) = &output.vertex("COPY").op.op else { panic!() };
    assert_eq!(file.actions.len(), 2);
    assert_eq!(
        (file.actions[0].input, file.actions[0].secondaryInput, file.actions[0].output),
        (0, 1, -1)
    );
    assert_eq!(
        (file.actions[1].input, file.actions[1].secondaryInput, file.actions[1].output),
        (2, 1, 0)
    );
    let copy = output.copy("COPY");
    assert_eq!((copy.src.as_str(), copy.dest.as_str()), ("/b", "/w/d/"));
    assert_eq!(copy.mode, 0o640);
    assert_eq!(copy.exclude_patterns, ["*.md"]);
    assert!(copy.followSymlink && copy.dirCopyContents && copy.createDestPath);
    assert!(
        copy.allowWildcard && copy.allowEmptyWildcard && !copy.attemptUnpackDockerCompatibility
    );
    assert!(
        matches!(&copy.owner.user.user, Some(User::ByName(named)) if named.name == "u" && named.input == 0)
    );
    assert_eq!(copy.owner.group.user, Some(User::ByID(7)));
    let context = output.source("local://context");
    assert_eq!(context.attrs["local.followpaths"], "[\"b\",\"c*\"]");
    assert_eq!(context.attrs["local.session"], "session");
    assert_eq!(context.attrs["local.sharedkeyhint"], "context");
    assert!(
        output.created_by().contains(&"COPY --chown=u:7 --chmod=0640 a/../b c* d/ # buildkit"),
        "{:?}",
        output.created_by()
    );
}

#[test]
fn copies_of_everything_have_no_limit() {
    let output = dockerfile("FROM busybox\nCOPY a /a\nCOPY . /\n").result();
    assert!(!output.source("local://context").attrs.contains_key("local.followpaths"));
}

#[test]
fn linked_copies_are_merged() {
    let output = dockerfile("FROM busybox\nCOPY --link a /b\n").result();
    let merge = output.vertex("LINK COPY");
    assert_eq!(merge.name(), "[2/2] LINK COPY --link a /b");
    assert!(matches!(merge.op.op, Some(Op::Merge(_))));
    assert_eq!(merge.inputs.len(), 2);
    let copy = &merge.inputs[1].vertex;
    let Some(Op::File(file)) = &copy.op.op else { panic!() };
    assert_eq!((file.actions[0].input, file.actions[0].secondaryInput), (-1, 0));
    assert_eq!(copy.metadata.progress_group.name, "[2/2] COPY --link a /b");
    assert!(copy.metadata.progress_group.weak && !merge.metadata.progress_group.weak);
    assert_eq!(copy.metadata.progress_group.id, merge.metadata.progress_group.id);
    // On nothing there is nothing to merge; with --chmod there is no link.
    let output = dockerfile("FROM scratch\nCOPY --link a /b\n").result();
    assert_eq!(output.names().last().unwrap(), "[1/1] COPY --link a /b");
    let output = dockerfile("FROM busybox\nCOPY --link --chmod=755 a /b\n").result();
    assert!(matches!(output.vertex("COPY").op.op, Some(Op::File(_))));
}

#[test]
fn parents_and_pivots() {
    let output = dockerfile("FROM busybox\nCOPY --parents x/./a/b y/*.c /d/\n").result();
    let Some(Op::File(file)) = &output.vertex("COPY").op.op else { panic!() };
    let copies: Vec<_> = file
        .actions
        .iter()
        .map(|action| match &action.action {
            Some(pb::__buffa::oneof::file_action::Action::Copy(copy)) => copy,
            _ => panic!(),
        })
        .collect();
    assert_eq!(
        (copies[0].src.as_str(), copies[0].include_patterns.as_slice()),
        ("/x", &["a/b".to_owned()][..])
    );
    assert_eq!(copies[0].required_paths, ["/x/a/b"]);
    assert_eq!(
        (copies[1].src.as_str(), copies[1].include_patterns.as_slice()),
        ("/", &["y/*.c".to_owned()][..])
    );
    assert!(copies[1].required_paths.is_empty());
}

#[test]
fn remote_sources() {
    let sum = format!("sha256:{}", "0".repeat(64));
    let text = format!(
        "FROM busybox\nADD --checksum={sum} https://x.y/f.tar /t/\nADD a.tar /u\nADD --unpack https://x.y/g.tar /v\n\
         ADD --keep-git-dir=true https://x.y/r.git#v1:d /w\n"
    );
    let output = dockerfile(&text).result();
    let http = output.source("https://x.y/f.tar");
    assert_eq!(http.attrs["http.checksum"], sum);
    assert_eq!(http.attrs["http.filename"], "f.tar");
    assert_eq!(output.copy("[2/5] ADD --checksum").src, "/f.tar");
    assert!(output.copy("[3/5]").attemptUnpackDockerCompatibility);
    assert!(output.copy("[4/5] ADD --unpack").attemptUnpackDockerCompatibility);
    let git = output.source("git://x.y/r.git#v1:d");
    assert_eq!(git.attrs["git.keepgitdir"], "true");
    let Some(Op::File(file)) = &output.graph.vertices().last().unwrap().op.op else { panic!() };
    assert!(matches!(&file.actions[0].action,
        Some(pb::__buffa::oneof::file_action::Action::Copy(copy)) if copy.src == "/" && copy.dest == "/w"));
    assert_eq!(output.source("local://context").attrs["local.followpaths"], "[\"a.tar\"]");
}

#[test]
fn inline_files() {
    let text = "FROM busybox\nARG N=1\nCOPY <<one <<'two' /d/\na$N\none\nb$N\ntwo\n";
    let output = dockerfile(text).result();
    let files: Vec<&pb::FileActionMkFile> = output
        .graph
        .vertices()
        .filter_map(|vertex| match &vertex.op.op {
            Some(Op::File(file)) => match &file.actions[0].action {
                Some(pb::__buffa::oneof::file_action::Action::Mkfile(file)) => Some(&**file),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let mut contents: Vec<_> =
        files.iter().map(|file| (file.path.as_str(), &file.data[..])).collect();
    contents.sort_unstable();
    assert_eq!(contents, [("/one", &b"a1\n"[..]), ("/two", &b"b$N\n"[..])]);
    assert!(output.names().contains(&"[internal] preparing inline document".to_owned()));
}

#[test]
fn commands_and_their_options() {
    let text = "FROM busybox\nENV A=b\nRUN --network=none --security=insecure [\"a\",\"$A\"]\n";
    let output = dockerfile(text)
        .attr("add-hosts", "h=1.2.3.4")
        .attr("shm-size", "1024")
        .attr("ulimit", "nofile=1:2")
        .attr("hostname", "box")
        .attr("cgroup-parent", "cg")
        .attr("memory", "1000")
        .attr("build-arg:HTTPS_PROXY", "p")
        .attr("no-cache", "")
        .result();
    let vertex = output.vertex("RUN");
    let exec = exec_op(vertex);
    assert_eq!(exec.meta.args, ["a", "$A"]);
    assert!(exec.network == pb::NetMode::NONE && exec.security == pb::SecurityMode::INSECURE);
    assert_eq!(exec.meta.extraHosts[0].IP, "1.2.3.4");
    assert_eq!((exec.meta.hostname.as_str(), exec.meta.cgroupParent.as_str()), ("box", "cg"));
    assert_eq!(exec.meta.ulimit[0].Hard, 2);
    assert_eq!(exec.meta.proxy_env.https_proxy, "p");
    assert!(!exec.meta.env.iter().any(|entry| entry.contains("PROXY")));
    assert!(exec.meta.removeMountStubsRecursive);
    assert_eq!(exec.mounts[1].dest, "/dev/shm");
    assert_eq!(exec.mounts[1].TmpfsOpt.size, 1024);
    assert!(vertex.ignore_cache());
    assert_eq!(vertex.metadata.linux_resources.memory, 1000);
    assert!(vertex.metadata.caps.contains_key("exec.meta.security"));
    assert_eq!(
        vertex.metadata.description["com.docker.dockerfile.v1.command"],
        "RUN --network=none --security=insecure [\"a\",\"$A\"]"
    );
}

#[test]
fn mounts() {
    let text = "FROM busybox AS s\nRUN x\nFROM busybox\nWORKDIR /w\nRUN --mount=target=/z,source=sub \
        --mount=type=cache,target=/root/.cache,sharing=locked --mount=type=cache,id=own,target=c,uid=5 \
        --mount=type=tmpfs,target=/t,size=10m --mount=from=s,source=/o,target=/i,rw \
        --mount=type=secret,id=tok --mount=type=secret,id=env1,env=TOKEN,required --mount=type=ssh,required id\n";
    let output = dockerfile(text).result();
    let exec = output.exec("type=cache");
    let dests: Vec<&str> = exec.mounts.iter().map(|mount| mount.dest.as_str()).collect();
    assert_eq!(
        dests,
        [
            "/",
            "/i",
            "/root/.cache",
            "/t",
            "/w/c",
            "/z",
            "/run/secrets/tok",
            "/run/buildkit/ssh_agent.0"
        ]
    );
    let by = |dest: &str| exec.mounts.iter().find(|mount| mount.dest == dest).unwrap();
    assert_eq!((by("/").output, by("/i").output, by("/z").output), (0, -1, -1));
    assert!(by("/z").readonly && !by("/i").readonly);
    assert_eq!((by("/z").selector.as_str(), by("/i").selector.as_str()), ("/sub", "/o"));
    assert_eq!(by("/root/.cache").cacheOpt.ID, "//root/.cache");
    assert!(by("/root/.cache").cacheOpt.sharing == pb::CacheSharingOpt::LOCKED);
    assert_eq!(by("/root/.cache").input, -1);
    assert_eq!((by("/w/c").cacheOpt.ID.as_str(), by("/w/c").selector.as_str()), ("/own", "/cache"));
    assert!(by("/w/c").input >= 0);
    assert_eq!(by("/t").TmpfsOpt.size, 10 << 20);
    let secret = by("/run/secrets/tok");
    assert_eq!((secret.secretOpt.mode, secret.secretOpt.optional), (0o400, true));
    assert_eq!((exec.secretenv[0].name.as_str(), exec.secretenv[0].optional), ("TOKEN", false));
    let agent = by("/run/buildkit/ssh_agent.0");
    assert_eq!((agent.SSHOpt.ID.as_str(), agent.SSHOpt.optional), ("default", false));
    assert!(exec.meta.env.contains(&"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0".to_owned()));
    assert_eq!(output.source("local://context").attrs["local.followpaths"], "[\"sub\"]");
}

#[test]
fn heredocs_of_commands() {
    let text = "FROM busybox\nRUN <<EOF\none\ntwo\nEOF\nRUN <<S\n#!/bin/x\ngo\nS\nRUN cat <<A > /f\nhi\nA\n";
    let output = dockerfile(text).result();
    let runs: Vec<&pb::ExecOp> = output
        .graph
        .vertices()
        .filter(|vertex| matches!(vertex.op.op, Some(Op::Exec(_))))
        .map(|vertex| exec_op(vertex))
        .collect();
    assert_eq!(runs[0].meta.args, ["/bin/sh", "-c", "one\ntwo\n"]);
    assert_eq!(runs[1].meta.args, ["/bin/sh", "-c", "/dev/pipes/S"]);
    assert_eq!(runs[1].mounts[1].dest, "/dev/pipes/");
    assert!(runs[1].mounts[1].readonly);
    assert_eq!(runs[2].meta.args, ["/bin/sh", "-c", "cat <<A > /f\nhi\nA"]);
    assert!(
        output.names().contains(&"[2/4] RUN <<EOF (one...)".to_owned()),
        "{:?}",
        output.names()
    );
}

#[test]
fn settings() {
    let text = "FROM busybox\nMAINTAINER me\nLABEL a=b \"c d\"=e\nEXPOSE 80 90-91/udp\nVOLUME /v\nUSER 1:2\n\
        SHELL [\"/bin/bash\",\"-c\"]\nENTRYPOINT run it\nSTOPSIGNAL SIGINT\n\
        HEALTHCHECK --interval=90s CMD ok\nENV X=1 Y=2\n";
    let output = dockerfile(text).attr("label:z", "given").result();
    let config = &output.image.config;
    assert_eq!(output.image.author, "me");
    assert_eq!(
        config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(),
        ["a=b", "c d=e", "z=given"]
    );
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["80/tcp", "90/udp", "91/udp"]);
    assert!(config.volumes.contains_key("/v"));
    assert_eq!(config.entrypoint, ["/bin/bash", "-c", "run it"]);
    assert!(config.cmd.is_empty(), "CMD of the base is of no use to another ENTRYPOINT");
    assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("1:2", "SIGINT"));
    assert_eq!(config.healthcheck.as_ref().unwrap().interval, 90_000_000_000);
    assert_eq!(
        output.created_by()[1..],
        [
            "MAINTAINER me",
            "LABEL a=b c d=e",
            "EXPOSE [80/tcp 90/udp 91/udp]",
            "VOLUME [/v]",
            "USER 1:2",
            "SHELL [/bin/bash -c]",
            "ENTRYPOINT [\"/bin/bash\" \"-c\" \"run it\"]",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK {Test:[CMD-SHELL ok] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            "ENV X=1 Y=2",
        ]
    );
    assert!(output.image.history[1..].iter().all(|entry| entry.empty_layer));
}

#[test]
fn wrong_instructions() {
    for (line, message) in [
        (
            "COPY --chmod=64a a b",
            "invalid chmod parameter: '64a'. it should be octal string and between 0 and 07777",
        ),
        ("COPY https://x/y /z", "source can't be a URL for COPY"),
        ("COPY https://x/y.git /z", "source can't be a git ref for COPY"),
        ("ADD --checksum=sha256:1 https://x/y /z", "invalid checksum"),
        ("ADD --checksum=sha256:1 y /z", "checksum requires HTTP(S) or Git sources"),
        ("ADD --checksum=a https://x/y.git?checksum=b /z", "checksum mismatch \"a\" != \"b\""),
        ("RUN --mount=type=cache,target=/ x", "invalid mount target \"/\""),
        ("EXPOSE 80/x", "invalid proto: x"),
        ("EXPOSE 1-65535 1-65535 1-65535 1-65535", "more than"),
        ("RUN --mount=type=bind,from=later,target=/x y", "cannot mount from stage \"later\""),
    ] {
        let text = format!("FROM busybox AS now\n{line}\nFROM busybox AS later\nFROM now\n");
        let error = dockerfile(&text).error();
        assert!(error.to_string().contains(message), "{line}: {error}");
        assert_eq!(error.sources()[0].1[0].start.line, 2, "{error}");
    }
}
