//! Whose a step is: users and groups of the image, variables, ids on the host, and what files of layers make of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use cofferdam_tests::{Builder, Context, Options, leftovers};
use serde_json::json;

use crate::attack::{Attack, BUILDER, Control, EVERYWHERE, Level, ONCE, Way, own};
use crate::cage::{Cage, Devices};
use crate::inside;
use crate::naive::{Bait, image};
use crate::planted::TEXT;
use crate::stage::{Findings, Stage};

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "identity",
        "ordinary-user",
        "all that the probe tries, by a step of an ordinary user's builder",
        ONCE,
        ordinary,
        chroot,
    ),
    own(
        "identity",
        "user-numbers",
        "CVE-2024-40635, CVE-2026-46680: users that overflow into root",
        ONCE,
        users,
        c_numbers,
    ),
    own(
        "identity",
        "user-files",
        "CVE-2026-47262: a user table that is a pipe, endless or huge",
        BUILDER,
        user_files,
        endless_read,
    ),
    own(
        "identity",
        "groups",
        "CVE-2023-25173: groups of the starter, not of the image",
        EVERYWHERE,
        groups,
        kept_groups,
    ),
    own(
        "identity",
        "environment",
        "CVE-2020-14370, CVE-2021-3602: variables of the host and the client",
        EVERYWHERE,
        environment,
        inherited,
    ),
    own(
        "identity",
        "three-roots",
        "root in a step is root of nothing else",
        BUILDER,
        host_ids,
        root_of_the_host,
    ),
    own(
        "identity",
        "file-capabilities",
        "capabilities and set-user-id by a file of a layer",
        BUILDER,
        file_capabilities,
        host_capabilities,
    ),
    own(
        "identity",
        "store-closed",
        "CVE-2021-41091, CVE-2024-25621: other users in the store of layers",
        ONCE,
        store_closed,
        open_store,
    ),
    own(
        "identity",
        "labels",
        "CVE-2026-53488: labels that tell a daemon what to do",
        ONCE,
        labels,
        no_reader,
    ),
];

/// Every key that a row of the probe looks at.
fn keys() -> Vec<&'static str> {
    let keys = inside::ATTACKS.iter().filter_map(|attack| match &attack.way {
        Way::Probe(keys) | Way::ProbeAlone(keys, _) => Some(*keys),
        Way::Own { .. } => None,
    });
    keys.flatten().copied().collect()
}

fn ordinary(stage: &Stage) -> String {
    let builder = Builder::start(&Options { ordinary: true, ..Options::default() });
    let facts = stage.planted.facts(&builder).join(" ");
    let context = stage.context(&format!("RUN /walls/probe inside {facts}"));
    let outcome = builder.build(&context).run().success();
    let keys = keys();
    let _ = Findings::read(&outcome.last_log("RUN ")).held(&keys);
    format!("{} attempts", keys.len())
}

fn chroot(stage: &Stage) -> Control {
    Control::Shown(stage.outside().breached(&keys()))
}

fn users(stage: &Stage) -> String {
    let users = [
        "4294967296",
        "-1",
        "4294967295",
        "1000:4294967296",
        "1000:99999999999",
        "18446744073709551616",
        "0x0",
        "65536",
        "1000:65536",
    ];
    for user in users {
        let outcome = stage.run(&format!("USER {user}\nRUN echo \"I am $(id -u)\""));
        assert_ne!(outcome.code, Some(0), "{user}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains(" I am 0"), "{user}: {}", outcome.stderr);
    }
    assert_eq!(stage.step("true; id -u"), "0");
    let fine = stage.run("USER 1000\nRUN echo \"I am $(id -u)\"").success();
    assert!(fine.stderr.contains("I am 1000"), "control: {}", fine.stderr);
    format!("{} refused", users.len())
}

fn c_numbers(_: &Stage) -> Control {
    // SAFETY: a string with an end.
    let naive = unsafe { libc::atoi(c"4294967296".as_ptr()) };
    assert_eq!(naive, 0);
    Control::Shown("the C library reads 4294967296 as 0".to_owned())
}

fn user_files(stage: &Stage) -> String {
    let begun = Instant::now();
    for make in [
        "rm /etc/passwd; mkfifo /etc/passwd",
        "ln -sf /dev/zero /etc/passwd",
        "rm /etc/passwd; ln -s /proc/kmsg /etc/passwd",
        "truncate -s 8G /etc/passwd",
        "truncate -s 8G /etc/group",
        "rm /etc/group; mkfifo /etc/group",
        "rm /etc/passwd; mkdir /etc/passwd",
    ] {
        let outcome = stage.run(&format!("RUN {make}\nUSER app\nRUN id"));
        // A pipe made under gVisor is nobody's but the sandbox's: what is left is no table at all, and no groups.
        let gone =
            stage.level == Level::Gvisor && outcome.stderr.contains("gid=1000 groups=1000\n");
        assert!(outcome.code != Some(0) || gone, "{make}: {}", outcome.stderr);
    }
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    "each refused at once".to_owned()
}

fn endless_read(_: &Stage) -> Control {
    let dir = tempfile::tempdir().unwrap();
    let script = "mkfifo passwd; timeout 1 grep app passwd; echo $?";
    let said = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "124\n", "{said:?}");
    Control::Shown("a reader of a pipe waits for ever".to_owned())
}

fn groups(stage: &Stage) -> String {
    let outcome = stage.run("USER app\nRUN echo \"groups $(id -G)\"").success();
    assert!(outcome.stderr.contains("groups 1000 50\n"), "{}", outcome.stderr);
    "1000 and 50, as the image says".to_owned()
}

fn kept_groups(_: &Stage) -> Control {
    let said = Command::new("setpriv")
        .args([
            "--groups",
            "7,8",
            "setpriv",
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--keep-groups",
            "id",
            "-G",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "1000 7 8", "{said:?}");
    Control::Shown("a starter that sets no groups hands on its own".to_owned())
}

fn environment(stage: &Stage) -> String {
    let outcome = stage
        .build("RUN env; cat /proc/*/environ | tr '\\0' '\\n'")
        .env("WALLS_CLIENT", TEXT)
        .run()
        .success();
    // The host's has been there since the suite began.
    assert_eq!(std::env::var("WALLS_HOST").as_deref(), Ok(TEXT));
    assert!(!outcome.stderr.contains(TEXT), "{}", outcome.stderr);
    "neither the host's nor the client's".to_owned()
}

fn inherited(_: &Stage) -> Control {
    let said = Cage::get().run(Devices::Hosts, &[], &["env"]);
    assert!(said.contains(TEXT), "{said}");
    Control::Shown("a chroot inherits them".to_owned())
}

fn host_ids(stage: &Stage) -> String {
    let mark = format!("5{:06}", std::process::id() % 1_000_000);
    let build = stage.build(&format!("RUN id -u; sleep {mark}")).spawn();
    let mut owners = Vec::new();
    for _ in 0..500 {
        owners = leftovers::marked(&mark);
        // In a sandbox with a kernel of its own the process is not one of the host's; its log says that it runs.
        if !owners.is_empty() || stage.level != Level::Namespaces && build.said().contains(" 0\n") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let tree = leftovers::tree(stage.builder.pid());
    let root: Vec<_> = tree
        .iter()
        .filter(|(pid, name)| owner(**pid) == Some(0) && name.contains("runsc"))
        .collect();
    build.interrupt();
    let _ = build.finish();
    assert!(owners.iter().all(|(_, owner)| *owner != 0), "{owners:?}");
    assert!(root.is_empty(), "runsc as root of the host: {root:?}");
    assert!(stage.level != Level::Namespaces || !owners.is_empty(), "no process was seen");
    format!("host ids {:?}", owners.iter().map(|(_, owner)| owner).collect::<Vec<_>>())
}

fn owner(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid())
}

fn root_of_the_host(_: &Stage) -> Control {
    let said = Cage::get().run(
        Devices::Hosts,
        &[],
        &["sh", "-c", "cat /proc/self/status | grep Uid; cat /proc/self/uid_map"],
    );
    assert!(said.contains("Uid:\t0\t0"), "{said}");
    Control::Shown("root in a chroot is root of the host".to_owned())
}

/// Tries both ways in which a file makes a process stronger.
const STRONGER: &str = "cp /walls/probe /walls/strong; /walls/probe set-capability /walls/strong; cp /bin/busybox /walls/suid; chmod 4755 /walls/suid";

fn file_capabilities(stage: &Stage) -> String {
    let outcome = stage.run(&format!(
        "RUN {STRONGER}\nUSER 1000\nRUN /walls/strong capabilities; (echo x > /proc/sys/kernel/core_pattern) && echo WROTE; true"
    ));
    assert!(!outcome.stderr.lines().any(|line| line.ends_with(" WROTE")), "{}", outcome.stderr);
    // A file that wants more than a step may ever have does not even start.
    if outcome.stderr.contains("strong: Operation not permitted") {
        return "the program is refused".to_owned();
    }
    let said: Vec<String> = outcome.steps().iter().flat_map(|step| step.log.clone()).collect();
    Findings::read(&said.join("\n")).held(&["capabilities-effective", "capabilities-bounding"])
}

fn host_capabilities(_: &Stage) -> Control {
    let cage = Cage::new();
    let run = format!("{STRONGER}; exec busybox su app -s /bin/sh -c '/walls/strong capabilities'");
    let said = cage.run(Devices::Hosts, &[], &["sh", "-c", &run]);
    Control::Shown(Findings::read(&said).breached(&["capabilities-effective"]))
}

fn store_closed(stage: &Stage) -> String {
    let _ = stage.run(&format!("RUN {STRONGER}")).success();
    let store = stage.builder.root().join("store");
    let listed = as_nobody(&["find", store.to_str().unwrap(), "-perm", "-4000"]);
    assert!(listed.0.is_empty() && listed.1.contains("Permission denied"), "{listed:?}");
    "others cannot enter it".to_owned()
}

/// Output and errors of a command as `nobody`, who has no groups.
fn as_nobody(words: &[&str]) -> (String, String) {
    let said = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(words)
        .output()
        .unwrap();
    (
        String::from_utf8_lossy(&said.stdout).into_owned(),
        String::from_utf8_lossy(&said.stderr).into_owned(),
    )
}

fn open_store(_: &Stage) -> Control {
    let bait = Bait::new();
    fs::set_permissions(bait.root().parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let file = bait.root().join("suid");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o4755)).unwrap();
    let (found, _) = as_nobody(&["find", bait.root().to_str().unwrap(), "-perm", "-4000"]);
    assert!(found.contains("suid"), "{found}");
    Control::Shown("in an open directory it is found and would run".to_owned())
}

fn labels(stage: &Stage) -> String {
    let target = stage.planted.open().join("planted");
    let uri = format!("binary:///bin/touch?id={}", target.display());
    let from = image("labels", &[], |config| {
        config["config"]["Labels"] = json!({
            "io.containerd.log-uri": uri,
            "io.containerd.image.config.stop-signal": uri,
            "nerdctl/log-uri": uri,
            "containerd.io/gc.root": uri,
            "io.podman.annotations.init": "true",
            "io.podman.annotations.privileged": "TRUE",
            "org.opencontainers.image.runc": uri,
            "com.docker.security.apparmor": "unconfined",
        });
    });
    let context = Context::dockerfile(&format!(
        "FROM {from}\nCOPY --from=0 /bin/busybox /x\nRUN grep Seccomp: /proc/self/status\n"
    ));
    let text = context.join("Dockerfile");
    fs::write(text, format!("FROM {from}\nRUN grep Seccomp: /proc/self/status\n")).unwrap();
    let outcome = stage.builder.build(&context).run().success();
    assert!(outcome.log("RUN grep").ends_with('2'), "{}", outcome.stderr);
    assert!(!target.exists());
    "labels are carried and not read".to_owned()
}

fn no_reader(_: &Stage) -> Control {
    Control::Impossible("no program here takes commands from labels")
}
