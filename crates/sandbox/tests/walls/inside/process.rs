//! What the command of a step is: its arguments, environment, identity and limits.

use std::sync::Arc;

use cofferdam_sandbox::{LaunchError, Ulimit, User};

use super::cases;
use crate::bench::{Bench, bind};

pub(super) const CASES: &[(&str, super::Case)] = cases![
    "process":
    exit_codes,
    environment_is_exactly_what_was_given,
    command_lookup,
    user_and_groups,
    ids_out_of_range_are_refused,
    is_first_of_its_processes,
    capabilities,
    no_descriptors,
    limits_of_the_process,
    is_the_first_to_go_for_memory,
    signals_are_default,
    working_directory,
    streams_can_be_reopened,
    large_arguments,
];

async fn exit_codes(bench: Arc<Bench>) {
    for code in [0, 1, 42, 255] {
        let output = bench.run(bench.script(&format!("exit {code}"))).await;
        assert_eq!((output.exit.code, output.exit.signal), (Some(code), None));
    }
    let output = bench.run(bench.script("sh -c 'kill -9 $$'; exit $?")).await;
    assert_eq!(output.exit.code, Some(137));
    let output = bench.run(bench.script("echo out; echo err >&2")).await;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    assert!(!output.exit.oom_killed);
}

async fn environment_is_exactly_what_was_given(bench: Arc<Bench>) {
    let mut spec = bench.spec(&bench.root(), &["/bin/env"]);
    spec.env = vec!["HOME=/h".into()];
    assert_eq!(bench.run(spec).await.stdout, "HOME=/h\n");
    spec = bench.spec(&bench.root(), &["env"]);
    spec.env = vec!["PATH=/bin".into(), "A=b c".into(), "HOME=/h".into()];
    // runsc puts them into an order of its own.
    let said = bench.run(spec).await.stdout;
    let mut lines: Vec<&str> = said.lines().collect();
    if bench.under_gvisor() {
        lines.sort_by_key(|line| {
            ["PATH", "A", "HOME"].iter().position(|name| line.starts_with(name))
        });
    }
    assert_eq!(lines, ["PATH=/bin", "A=b c", "HOME=/h"]);
    spec = bench.spec(&bench.root(), &["/bin/env"]);
    // What is missing gVisor looks up for the user.
    let expected = if bench.under_gvisor() { "HOME=/root\n" } else { "" };
    assert_eq!(bench.run(spec).await.stdout, expected);
}

async fn command_lookup(bench: Arc<Bench>) {
    let refused = async |args: &[&str], env: &[&str]| {
        let mut spec = bench.spec(&bench.root(), args);
        spec.env = env.iter().map(|&variable| variable.to_owned()).collect();
        match bench.try_run(spec).await {
            Err(LaunchError::Command { message, code }) => (message, code),
            other => panic!("{:?}", other.map(|output| output.exit)),
        }
    };
    let (message, code) = refused(&["absent"], &[]).await;
    assert_eq!(
        (message.as_str(), code),
        (r#"exec: "absent": executable file not found in $PATH"#, 127)
    );
    let (message, code) = refused(&["/absent"], &[]).await;
    assert_eq!(
        (message.as_str(), code),
        (r#"exec: "/absent": stat /absent: no such file or directory"#, 127)
    );
    let (_, code) = refused(&["sh"], &["PATH=/nowhere"]).await;
    assert_eq!(code, 127);
    let (message, code) = refused(&["/etc/passwd"], &[]).await;
    assert_eq!((message.as_str(), code), ("exec /etc/passwd: permission denied", 126));
    let (_, code) = refused(&["/etc"], &[]).await;
    assert_eq!(code, 126);
}

async fn user_and_groups(bench: Arc<Bench>) {
    let mut spec = bench.spec(&bench.root(), &["id"]);
    spec.user = User { uid: 1000, gid: 1001, groups: vec![5, 6] };
    assert_eq!(bench.run(spec).await.stdout.trim(), "uid=1000(app) gid=1001 groups=5,6");
    let output = bench.output("id -u; id -g; id -G").await;
    assert_eq!(output, "0\n0\n0\n");
    if bench.under_gvisor() {
        // The maps shown are the sentry's; see gvisor::ids_on_disk_are_those_of_the_other_levels.
        return;
    }
    let map =
        bench.output("cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups").await;
    let fields: Vec<&str> = map.split_whitespace().collect();
    // As seen from the outermost namespace that maps it, which for the step is the builder's.
    assert_eq!(fields[0], "0");
    assert_eq!(fields[2], "65536");
    assert_eq!(fields[6], "allow");
}

async fn ids_out_of_range_are_refused(bench: Arc<Bench>) {
    for user in [
        User { uid: 65_536, ..User::default() },
        User { gid: u32::MAX, ..User::default() },
        User { groups: vec![70_000], ..User::default() },
    ] {
        let mut spec = bench.script("true");
        spec.user = user;
        assert!(matches!(bench.try_run(spec).await.err(), Some(LaunchError::Invalid(_))));
    }
}

async fn is_first_of_its_processes(bench: Arc<Bench>) {
    assert_eq!(bench.output("echo $$").await, "1\n");
    let seen = bench.output("ls /proc | grep -c '^[0-9]'").await;
    assert!(seen.trim().parse::<u32>().unwrap() <= 4, "{seen}");
    let mut spec = bench.script("hostname");
    spec.hostname = "buildkitsandbox".into();
    assert_eq!(bench.run(spec).await.stdout, "buildkitsandbox\n");
}

async fn capabilities(bench: Arc<Bench>) {
    let status = |output: &str, field: &str| {
        let line = output.lines().find(|line| line.starts_with(field)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // A filter in the sentry would be one the step has put there itself.
    let filtered = if bench.under_gvisor() { "0" } else { "2" };
    let root = bench.output("cat /proc/self/status").await;
    let told = root.contains("NoNewPrivs");
    assert!(told || bench.under_gvisor(), "{root}");
    let build = "00000000800404fb";
    assert_eq!(status(&root, "CapInh"), "0000000000000000");
    // The sentry knows no ambient set.
    assert!(bench.under_gvisor() || status(&root, "CapAmb") == "0000000000000000");
    assert_eq!(status(&root, "CapEff"), build);
    assert_eq!(status(&root, "CapPrm"), build);
    assert_eq!(status(&root, "CapBnd"), build);
    assert_eq!(status(&root, "Seccomp:"), filtered);
    assert!(!told || status(&root, "NoNewPrivs") == "1");
    let mut spec = bench.script("cat /proc/self/status");
    spec.user = User { uid: 1000, gid: 1000, groups: vec![] };
    let user = bench.run(spec).await.stdout;
    assert_eq!(status(&user, "CapEff"), "0000000000000000");
    assert_eq!(status(&user, "CapPrm"), "0000000000000000");
    assert_eq!(status(&user, "CapBnd"), build);
    assert_eq!(status(&user, "Seccomp:"), filtered);
    assert!(!told || status(&user, "NoNewPrivs") == "0");
    let mut spec = bench.script("cat /proc/self/status");
    spec.user = User { uid: 1000, gid: 1000, groups: vec![] };
    spec.no_new_privileges = true;
    let user = bench.run(spec).await.stdout;
    assert!(!told || status(&user, "NoNewPrivs") == "1");
}

async fn no_descriptors(bench: Arc<Bench>) {
    let output = bench.run(bench.probe(&["descriptors"])).await;
    assert_eq!(output.stdout, "open 0\nopen 1\nopen 2\n", "{}", output.stderr);
}

async fn limits_of_the_process(bench: Arc<Bench>) {
    let output = bench.output("ulimit -c; ulimit -Sn").await;
    // The default, or what this machine lets the builder have.
    let own =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert_eq!(output, format!("0\n{}\n", own.min(65_536)));
    let mut spec = bench.script("ulimit -Sn; ulimit -Hn");
    spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }];
    assert_eq!(bench.run(spec).await.stdout, "100\n200\n");
    let mut spec = bench.script("true");
    spec.ulimits = vec![Ulimit { name: "nonsense".into(), soft: 1, hard: 1 }];
    assert!(matches!(bench.try_run(spec).await.err(), Some(LaunchError::Invalid(_))));
}

async fn is_the_first_to_go_for_memory(bench: Arc<Bench>) {
    let score = || std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own = score();
    assert_eq!(bench.output("cat /proc/self/oom_score_adj").await, "1000\n");
    assert_eq!(score(), own, "the builder's changed");
}

async fn signals_are_default(bench: Arc<Bench>) {
    // Without a shell in between, which has handlers of its own.
    let args = ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let output = bench.run(bench.spec(&bench.root(), &args)).await.stdout;
    assert_eq!(output.matches("0000000000000000\n").count(), 3, "{output}");
}

async fn working_directory(bench: Arc<Bench>) {
    let root = bench.root();
    let mut spec = bench.spec(&root, &["sh", "-c", "pwd; stat -c '%u:%g %a' ."]);
    spec.cwd = "/new/deep/../dir".into();
    assert_eq!(bench.run(spec).await.stdout, "/new/dir\n0:0 755\n");
    assert!(root.upper.join("new/dir").is_dir());
    for number in 0..64 {
        let mut spec = bench.script("pwd; ls");
        spec.cwd = format!("/proc/self/fd/{number}");
        let result = bench.try_run(spec).await;
        assert!(
            matches!(&result, Err(LaunchError::Root { .. })),
            "descriptor {number}: {:?}",
            result.map(|output| output.stdout)
        );
    }
    let root = bench.root_on(|layer| {
        std::os::unix::fs::symlink("/proc/self/fd/7/../..", layer.join("trap")).unwrap()
    });
    let mut spec = bench.spec(&root, &["pwd"]);
    spec.cwd = "/trap".into();
    assert!(bench.try_run(spec).await.is_err());
}

async fn streams_can_be_reopened(bench: Arc<Bench>) {
    let mut spec = bench.script("echo a > /dev/stdout; echo b > /dev/stderr; cat /dev/stdin");
    spec.user = User { uid: 1000, gid: 1000, groups: vec![] };
    let output = bench.run(spec).await;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("a\n", "b\n"));
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&writer, b"typed").unwrap();
    drop(writer);
    let (stdout, sink) = rustix::pipe::pipe().unwrap();
    let other = rustix::io::dup(&sink).unwrap();
    let mut running =
        bench.launcher.run(bench.script("cat"), sink, other, Some(reader)).await.unwrap();
    assert!(running.wait().await.unwrap().success());
    let mut bytes = [0; 16];
    let length = rustix::io::read(&stdout, &mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"typed");
}

async fn large_arguments(bench: Arc<Bench>) {
    let mut spec = bench.script("echo ${#A}");
    spec.env = vec![
        format!("A={}", "x".repeat(120_000)),
        format!("B={}", "y".repeat(120_000)),
        format!("C={}", "\u{1}".repeat(120_000)),
    ];
    for number in 0..200 {
        spec.mounts.push(bind("/usr/bin", &format!("/mnt/{number:03}{}", "z".repeat(200)), true));
    }
    assert_eq!(bench.run(spec).await.stdout, "120000\n");
}
