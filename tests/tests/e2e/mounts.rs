//! RUN --mount: bind, cache, tmpfs, secret, ssh.

use cofferdam_tests::{Agent, Builder, Context};

#[test]
fn bind_mounts_show_context_and_stages_and_change_neither() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox AS other\nRUN mkdir /o && echo other > /o/file\nFROM @busybox\n\
             RUN --mount=type=bind,target=/src cat /src/sub/a > /from-context && ! touch /src/x\n\
             RUN --mount=from=other,source=/o,target=/mnt cat /mnt/file > /from-stage\n\
             RUN --mount=type=bind,source=sub,target=/w,rw echo changed > /w/a && echo new > /w/b && cat /w/a > /written\n\
             RUN --mount=target=/src cat /src/sub/a > /after; ls /src/sub >> /after\n",
        ),
        ("sub/a", "content\n"),
    ]);
    let image = builder.build(&context).image();
    assert_eq!(image.text("from-context"), "content\n");
    assert_eq!(image.text("from-stage"), "other\n");
    assert_eq!(image.text("written"), "changed\n");
    assert_eq!(image.text("after"), "content\na\n", "writes to a mount are thrown away");
    let files = image.files();
    for stub in ["src", "mnt", "w"] {
        assert!(!files.contains_key(stub), "the mount point /{stub} stayed");
    }
}

#[test]
fn a_cache_mount_keeps_its_files_for_later_builds_and_out_of_the_image() {
    let builder = Builder::plain();
    let text = |number: u32| {
        format!(
            "FROM @busybox\nRUN --mount=type=cache,target=/cache,id=c,uid=1000,gid=50,mode=0750 stat -c '%u:%g %a' /cache && touch /cache/{number} && ls /cache | tr '\\n' ' ' > /out\n"
        )
    };
    let outcome = builder.build(&Context::dockerfile(&text(1))).run().success();
    assert_eq!(outcome.log("RUN --mount"), "1000:50 750");
    let image = builder.image(&text(2));
    assert_eq!(image.text("out"), "1 2 ");
    assert!(!image.files().contains_key("cache/1") && !image.files().contains_key("cache"));
    // Another name is another directory.
    let image =
        builder.image("FROM @busybox\nRUN --mount=type=cache,target=/cache ls /cache > /out\n");
    assert_eq!(image.text("out"), "");
}

#[test]
fn a_locked_cache_mount_has_one_user_at_a_time() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox AS a\nRUN --mount=type=cache,target=/c,sharing=locked mkdir /c/taken && sleep 0.5 && rmdir /c/taken && echo a > /out\n\
         FROM @busybox AS b\nRUN --mount=type=cache,target=/c,sharing=locked mkdir /c/taken && sleep 0.5 && rmdir /c/taken && echo b > /out\n\
         FROM scratch\nCOPY --from=a /out /a\nCOPY --from=b /out /b\n",
    );
    let files = builder.build(&context).tar();
    assert!(files.contains_key("a") && files.contains_key("b"));
}

#[test]
fn tmpfs_mounts_are_empty_bounded_and_gone_afterwards() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nRUN echo x > /tmp/below\nRUN --mount=type=tmpfs,target=/tmp,size=2m ls /tmp > /listed; \
         df -k /tmp | tail -1 | awk '{print $2}' > /size; echo y > /tmp/above; ! dd if=/dev/zero of=/tmp/big bs=1M count=3 2>/dev/null\n",
    );
    assert_eq!(image.text("listed"), "");
    assert_eq!(image.text("size"), "2048\n");
    let files = image.files();
    assert!(files.contains_key("tmp/below") && !files.contains_key("tmp/above"));
}

#[test]
fn a_forwarded_agent_answers_in_the_step_that_mounts_it_only() {
    let agent = Agent::start();
    let builder = Builder::plain();
    // SSH_AGENTC_REQUEST_IDENTITIES; the answer holds the comment of the key.
    let ask = "python3 -c \"import os,socket; s=socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK']); s.send(bytes([0,0,0,1,11])); print(s.recv(4096))\"";
    let context = Context::dockerfile(&format!(
        "FROM @python\nRUN --mount=type=ssh {ask}\nRUN echo \"[$SSH_AUTH_SOCK]\"; ls /run/buildkit 2>/dev/null | wc -l\n"
    ));
    let outcome = builder
        .build(&context)
        .arg("--ssh")
        .arg(format!("default={}", agent.socket().display()))
        .run()
        .success();
    assert!(outcome.log("RUN --mount=type=ssh").contains("key-of-the-test"), "{}", outcome.stderr);
    assert_eq!(outcome.log("RUN echo"), "[]\n0");
    let error = builder
        .build(&Context::dockerfile("FROM @busybox\nRUN --mount=type=ssh,required true\n"))
        .run()
        .failure();
    assert!(error.contains("ssh") && error.contains("Dockerfile:2"), "{error}");
}
