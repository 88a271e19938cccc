//! RUN: forms, here-documents, users, directories, what a layer keeps of it.

use cofferdam_tests::{Builder, Context};

#[test]
fn shell_exec_and_heredoc_forms_run() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nENV V=value\nRUN echo \"shell $V\" \\\n  # a comment between\n  && echo continued > /continued\n\
         RUN [\"sh\", \"-c\", \"echo exec $V > /exec\"]\nRUN [\"touch\", \"/a file\"]\n\
         RUN <<EOF\necho first > /heredoc\necho \"second $V\" >> /heredoc\nEOF\n\
         RUN <<'EOF' cat > /quoted\n$V stays\nEOF\nRUN <<-EOF\n\techo tabs > /tabs\nEOF\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" > \"/awk\" }\nEOF\n",
    );
    assert_eq!(image.text("continued"), "continued\n");
    assert_eq!(image.text("exec"), "exec value\n", "the shell that was asked for expands");
    assert_eq!(image.text("heredoc"), "first\nsecond value\n");
    assert_eq!(image.text("quoted"), "$V stays\n");
    assert_eq!(image.text("tabs"), "tabs\n");
    assert_eq!(image.text("awk"), "awk\n");
    assert!(image.files().contains_key("a file"));
}

#[test]
fn exec_form_expands_nothing() {
    let builder = Builder::plain();
    let outcome = builder
        .build(&Context::dockerfile(
            "FROM @busybox\nENV V=value\nRUN [\"echo\", \"$V\", \"a  b\"]\n",
        ))
        .run()
        .success();
    assert_eq!(outcome.log("RUN [\"echo\""), "$V a  b");
}

#[test]
fn a_layer_keeps_owners_modes_links_and_removals() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nRUN mkdir -p /d/deep /gone/dir && echo 1 > /d/file && echo 2 > /d/removed && echo 3 > /gone/dir/x\n\
         RUN chown 1000:50 /d/file && chmod 4751 /d/file && ln -s file /d/link && ln /d/file /d/hard && mkfifo /d/pipe \
         && rm /d/removed && rm -r /gone && mkdir /gone && touch /gone/new && rm -r /d/deep\n",
    );
    let files = image.files();
    let file = &files["d/file"];
    assert_eq!((file.uid, file.gid, file.mode, file.kind), (1000, 50, 0o4751, 'f'));
    assert_eq!(files["d/link"].link, "file");
    assert_eq!(files["d/pipe"].kind, 'p');
    let layer = image.layer(2);
    let hard = [&layer["d/file"], &layer["d/hard"]];
    assert!(hard.iter().any(|entry| entry.kind == 'h'), "{hard:?}");
    assert!(
        layer.contains_key("d/.wh.removed") && layer.contains_key("d/.wh.deep"),
        "{:?}",
        layer.keys()
    );
    assert!(
        !files.contains_key("gone/dir/x") && files.contains_key("gone/new"),
        "{:?}",
        layer.keys()
    );
    assert!(!files.contains_key("d/removed") && !files.contains_key("d/deep"));
    // Nothing of the sandbox's own.
    for unwanted in
        ["dev/null", "proc/self", "etc/resolv.conf", "etc/hosts", "etc/hostname", ".dockerenv"]
    {
        assert!(!files.contains_key(unwanted), "{unwanted} came from the sandbox");
    }
}

#[test]
fn users_by_name_number_and_group_and_home() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nRUN chmod 1777 /home\nUSER app\nRUN echo \"$(id -u):$(id -g) $HOME\" > /home/a\nUSER 1234:4321\nRUN id -u > /home/b && id -g >> /home/b\n\
         USER nobody:extra\nRUN echo \"$(id -u):$(id -g)\" > /home/c\nUSER root\nRUN echo \"$(id -u) $HOME\" > /home/d\n",
    );
    assert_eq!(image.text("home/a"), "1000:1000 /home\n");
    assert_eq!(image.text("home/b"), "1234\n4321\n");
    assert_eq!(image.text("home/c"), "65534:50\n");
    assert_eq!(image.text("home/d"), "0 /root\n");
    let file = &image.files()["home/b"];
    assert_eq!((file.uid, file.gid), (1234, 4321));
}

#[test]
fn extra_hosts_shared_memory_and_limits_reach_the_step() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox\nRUN cat /etc/hosts && echo shm $(df -k /dev/shm | tail -1 | awk '{print $2}') && echo nofile $(ulimit -n) && hostname\n",
    );
    let outcome = builder
        .build(&context)
        .args("--add-host some.example:203.0.113.7 --shm-size 32m --ulimit nofile=123:456")
        .run()
        .success();
    let log = outcome.log("RUN cat");
    assert!(
        log.contains("203.0.113.7\tsome.example") || log.contains("203.0.113.7 some.example"),
        "{log}"
    );
    assert!(log.contains("shm 32768") && log.contains("nofile 123"), "{log}");
}

#[test]
fn logs_arrive_line_by_line_while_the_step_runs() {
    let builder = Builder::plain();
    let context =
        Context::dockerfile("FROM @busybox\nRUN echo ear''ly && sleep 3 && echo la''te >&2\n");
    let build = builder.build(&context).spawn();
    build.wait_for(" early");
    assert!(!build.said().contains(" late"), "{}", build.said());
    let outcome = build.finish().success();
    assert_eq!(outcome.log("RUN echo"), "early\nlate");
}
