//! The sandbox as a step of a real build sees it, with controls that show the test would notice.

use std::os::unix::fs::MetadataExt;

use cofferdam_tests::marks::{appears, mark};
use cofferdam_tests::{Builder, Context, Options, is_root, leftovers, need_root};

fn log(builder: &Builder, command: &str) -> String {
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN {command}\n"));
    let outcome = builder.build(&context).run().success();
    outcome.log("RUN ")
}

#[test]
fn three_roots_are_three_ids() {
    let builder = Builder::plain();
    let mark = mark(47);
    let context = Context::dockerfile(&format!(
        "FROM @busybox\nRUN cat /proc/self/uid_map; id -u; touch /made; sleep {mark}\n"
    ));
    let build = builder.build(&context).spawn();
    // The shell has the mark inside one long word; the sleep has it alone.
    let step = appears(&mark);
    assert_ne!(step, 0, "the step's root is not the host's");
    let owner = std::fs::metadata(builder.root().join("store")).unwrap().uid();
    assert_ne!(step, owner, "the step's root is not the builder's");
    if is_root() {
        assert_ne!(owner, 0, "the builder's root is not the host's");
        assert_eq!(step, owner + 65_536);
    }
    // The step is ahead of what is shown of it.
    build.wait_for(" 65536");
    let said = build.said();
    build.interrupt();
    let _ = build.finish();
    let map: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(_, rest)| rest.split_once(' '))
        .map(|(_, text)| text.trim())
        .collect();
    assert!(
        map.iter()
            .any(|line| line.split_whitespace().collect::<Vec<_>>() == ["0", "65536", "65536"]),
        "{said}"
    );
}

#[test]
fn nothing_of_the_host_or_the_builder_can_be_read() {
    let builder = Builder::plain();
    let planted = tempfile::Builder::new().prefix("planted-").tempfile().unwrap();
    std::fs::write(planted.path(), "of the host").unwrap();
    let path = planted.path().display();
    let said = log(
        &builder,
        &format!(
            "cat {path} /etc/shadow /proc/1/root{path} /proc/1/environ /store /run/cofferdam 2>&1 | grep -c -v 'No such file\\|Permission denied' ; \
             ls /proc | grep -c '^[0-9]*$'; ls / | tr '\\n' ' '; echo; hostname; env | cut -d= -f1 | sort | tr '\\n' ' '"
        ),
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[1].parse::<u32>().unwrap() < 10, "processes of others are visible: {said}");
    assert!(!lines[2].contains("store"), "{said}");
    assert_eq!(
        lines[4].trim(),
        "HOME HOSTNAME PATH PWD SHLVL"
            .replace("HOSTNAME ", if lines[4].contains("HOSTNAME") { "HOSTNAME " } else { "" }),
        "{said}"
    );
    assert!(!said.contains("of the host"), "{said}");
}

#[test]
fn a_step_has_no_descriptor_that_is_not_its_own() {
    let builder = Builder::plain();
    let said = log(&builder, "ls -l /proc/self/fd | awk '{print $9, $11}'");
    let mut numbers: Vec<&str> =
        said.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).collect();
    numbers.sort_unstable();
    // The fourth is the directory that ls reads.
    assert_eq!(numbers, ["0", "1", "2", "3"], "{said}");
    assert!(said.contains("0 /") && !said.contains("socket:"), "{said}");
}

#[test]
fn capabilities_are_cut_and_system_calls_filtered() {
    let builder = Builder::plain();
    let said = log(&builder, "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status");
    let value = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name}: {said}"))
            .trim()
            .to_owned()
    };
    let bits = |name: &str| u64::from_str_radix(&value(name), 16).unwrap();
    assert_eq!(value("Seccomp:"), "2");
    let bounding = bits("CapBnd:");
    assert_eq!(bits("CapInh:") | bits("CapAmb:"), 0, "{said}");
    for (name, bit) in [
        ("SYS_MODULE", 16),
        ("SYS_RAWIO", 17),
        ("SYS_PTRACE", 19),
        ("SYS_ADMIN", 21),
        ("SYS_BOOT", 22),
        ("SYS_TIME", 25),
        ("NET_ADMIN", 12),
        ("BPF", 39),
    ] {
        assert_eq!(bounding >> bit & 1, 0, "CAP_{name} is in the bounding set: {said}");
    }
    assert_eq!(bounding & 1, 1, "control: CAP_CHOWN is there, package managers need it");
    let said = log(
        &builder,
        "for c in 'mount -t tmpfs none /mnt' 'umount /proc' 'mknod /null c 1 3' 'chroot / true' 'unshare -U true' 'unshare -m true' 'hostname x' 'swapoff -a'; do \
         mkdir -p /mnt; if $c 2>/dev/null; then echo \"can: $c\"; else echo \"cannot: $c\"; fi; done",
    );
    for refused in ["mount -t", "umount", "mknod", "unshare -m", "hostname"] {
        assert!(said.contains(&format!("cannot: {refused}")), "{said}");
    }
}

#[test]
fn proc_and_sys_are_masked() {
    let builder = Builder::plain();
    let said = log(
        &builder,
        "cat /proc/kcore /proc/keys /proc/sched_debug /proc/timer_list 2>/dev/null | wc -c; ls -A /proc/scsi /sys/firmware /proc/acpi 2>/dev/null | grep -c '^[a-z]' ; \
         for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/kernel/hostname /proc/irq/0/x; do (echo x > $f) 2>/dev/null && echo wrote $f; done; ls /sys | wc -l; \
         ls /dev | sort | tr '\\n' ' '",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "0", "{said}");
    assert_eq!(lines[1], "0", "{said}");
    assert!(!said.contains("wrote"), "{said}");
    assert!(lines[2] == "0", "/sys shows something: {said}");
    for device in lines.last().unwrap().split_whitespace() {
        let known = [
            "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr",
            "stdin", "stdout", "tty", "urandom", "zero", "console",
        ];
        assert!(known.contains(&device), "/dev/{device}: {said}");
    }
}

#[test]
fn a_hostile_root_filesystem_leads_nowhere() {
    let builder = Builder::plain();
    // Where the sandbox mounts and writes, the image has links to elsewhere.
    let escape = tempfile::Builder::new().prefix("escape-").tempdir().unwrap();
    let target = escape.path().display();
    let image = builder.image(&format!(
        "FROM @busybox AS evil\nRUN rm -rf /dev /sys /etc/resolv.conf; ln -s {target} /newdev; ln -s {target}/resolv /etc/resolv.conf; ln -s {target} /sys; ln -s /proc/1/root /up; true\n\
         FROM evil\nRUN ls -A /up/ | head -3; echo ran > /ran\n"
    ));
    assert_eq!(image.text("ran"), "ran\n");
    assert_eq!(std::fs::read_dir(escape.path()).unwrap().count(), 0);
}

#[test]
fn memory_and_processes_are_limited_where_the_builder_has_groups() {
    need_root();
    let builder = Builder::plain();
    // A fork bomb ends with its step, and the builder lives.
    let context =
        Context::dockerfile("FROM @busybox\nRUN for i in $(seq 30); do sleep 600 & done; exit 3\n");
    let error = builder.build(&context).run().failure();
    assert!(error.contains("exit code: 3"), "{error}");
    let tree = leftovers::tree(builder.pid());
    assert!(!tree.values().any(|name| name.contains("sleep")), "{tree:?}");
    assert!(
        !leftovers::groups(builder.pid()).is_empty(),
        "control: the builder has groups while it runs"
    );
    assert_eq!(builder.image("FROM @busybox\nRUN echo alive > /a\n").text("a"), "alive\n");
}

#[test]
fn set_user_id_works_inside_and_files_keep_their_owners() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nRUN cp /bin/busybox /bin/suid && chmod 4755 /bin/suid && ln -sf suid /bin/whoareyou\n\
         RUN chown 65534:65534 /tmp/ && mkdir /own && chown 1000 /own\nUSER 1000\nRUN touch /own/mine\n",
    );
    let files = image.files();
    assert_eq!(files["bin/suid"].mode, 0o4755);
    assert_eq!(files["own/mine"].uid, 1000);
}

#[test]
fn insecure_things_need_to_be_allowed_on_both_sides() {
    let builder = Builder::plain();
    let host = "FROM @busybox\nRUN --network=host true\n";
    let insecure =
        "# syntax=docker/dockerfile:1-labs\nFROM @busybox\nRUN --security=insecure true\n";
    for (text, flags, refused) in [
        (host, "", "network.host is not allowed"),
        (host, "--allow network.host", "granting entitlement network.host is not allowed"),
        (insecure, "", "security.insecure is not allowed"),
        (
            insecure,
            "--allow security.insecure",
            "granting entitlement security.insecure is not allowed",
        ),
    ] {
        let error = builder.build(&Context::dockerfile(text)).args(flags).run().failure();
        assert!(error.contains(refused), "{flags}: {error}");
    }
    let open = Builder::start(&Options {
        args: vec!["--allow-insecure-entitlement".into(), "network.host".into()],
        ..Options::default()
    });
    let listener = cofferdam_tests::http::Server::start(|_| {
        cofferdam_tests::http::Response::ok("from the host")
    });
    let context = Context::dockerfile(&format!(
        "FROM @busybox\nRUN --network=host printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 {} | tail -1\n",
        listener.port()
    ));
    let outcome = open.build(&context).args("--allow network.host").run().success();
    assert_eq!(outcome.log("RUN "), "from the host");
    let error = open.build(&context).run().failure();
    assert!(error.contains("network.host is not allowed"), "{error}");
}

#[test]
fn two_builders_cannot_share_a_root() {
    let first = Builder::plain();
    let address = format!("unix://{}/second.sock", first.root().display());
    let second = std::process::Command::new(cofferdam_tests::program())
        .args(["builder", "--addr", &address, "--root"])
        .arg(first.root())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("use") || said.contains("lock"), "{said}");
    assert_eq!(first.image("FROM @busybox\nRUN echo alive > /a\n").text("a"), "alive\n");
}
