//! What runtimes of containers got wrong: working directories, users, roots with links where the sandbox mounts.

use std::fs;
use std::process::Command;

use cofferdam_tests::{Context, program};
use serde_json::{Value, json};

use crate::attack::{Attack, BUILDER, Control, EVERYWHERE, Level, own};
use crate::cage::{Cage, Devices};
use crate::naive::{Bait, evil, image};
use crate::planted::TEXT;
use crate::stage::{Findings, Stage};

const RUNTIME: &str = "runtime";

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        RUNTIME,
        "workdir-descriptor",
        "CVE-2024-21626: WORKDIR /proc/self/fd/N",
        EVERYWHERE,
        workdirs,
        leaked_directory,
    ),
    own(
        RUNTIME,
        "workdir-link",
        "CVE-2026-55686: WORKDIR below a link to the host",
        BUILDER,
        workdir_link,
        naive_mkdir,
    ),
    own(
        RUNTIME,
        "self-exe",
        "CVE-2019-5736: a command that is #!/proc/self/exe",
        BUILDER,
        self_exe,
        overwritten,
    ),
    own(
        RUNTIME,
        "mount-over-proc",
        "CVE-2019-16884: volumes and mounts over /proc, /sys, /dev",
        BUILDER,
        over_proc,
        false_proc,
    ),
    own(
        RUNTIME,
        "links-for-mounts",
        "CVE-2023-28642, CVE-2026-41579: an image whose /proc, /sys, /dev are links",
        EVERYWHERE,
        linked_mounts,
        runc,
    ),
    own(
        RUNTIME,
        "masks-race",
        "CVE-2025-31133, CVE-2025-52565: replacing /dev/null while files are masked with it",
        EVERYWHERE,
        masks,
        own_devices,
    ),
];

fn workdirs(stage: &Stage) -> String {
    let canary = stage.planted.closed().join("file");
    let mut places: Vec<String> = (3..10).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    places.extend([
        "/proc/1/fd/7".into(),
        "/proc/self/cwd".into(),
        "/proc/1/root".into(),
        "/link/8".into(),
        "/link/9/..".into(),
    ]);
    if stage.level == Level::Vm {
        places.truncate(4);
    }
    let mut refused = 0;
    for place in &places {
        let outcome = stage.run(&format!(
            "RUN ln -s /proc/self/fd /link\nWORKDIR {place}\nRUN pwd; ls -a; cat file; cat ../../../../../../..{}; cat ../../../..{}",
            canary.display(),
            canary.display()
        ));
        assert!(!outcome.stderr.contains(TEXT), "{place}: {}", outcome.stderr);
        refused += u32::from(outcome.code != Some(0));
    }
    format!("{refused} of {} refused, no other left the root", places.len())
}

fn leaked_directory(stage: &Stage) -> Control {
    let canary = stage.planted.closed();
    let cage = Cage::get().path();
    // A starter that forgets one descriptor.
    let script = format!(
        "mount --rbind /proc {root}/proc && exec 9<{} && exec chroot {root} sh -c 'cd /proc/self/fd/9 && cat file'",
        canary.display(),
        root = cage.display()
    );
    let said = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains(TEXT), "{said:?}");
    Control::Shown("a descriptor left open leads out of a chroot".to_owned())
}

fn workdir_link(stage: &Stage) -> String {
    let target = stage.planted.open();
    let outcome = stage.run(&format!(
        "RUN ln -s {target} /a\nWORKDIR /a/made/deep\nRUN pwd -P; touch here; ls -A {target}",
        target = target.display()
    ));
    let log = outcome.success();
    let log = log.log("pwd -P");
    assert!(log.contains("made"), "it is made inside: {log}");
    "made inside the root, where the link leads there".to_owned()
}

fn naive_mkdir(_: &Stage) -> Control {
    let bait = Bait::new();
    let outside = bait.outside();
    Control::Shown(bait.harmed(|root| {
        std::os::unix::fs::symlink(&outside, root.join("a")).unwrap();
        fs::create_dir_all(root.join("a/made/deep")).unwrap();
    }))
}

/// The loader of the starter's program takes what the image says it should: this ends the starter and keeps its program.
const TAKEOVER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void take(void) {
    char number[16];
    int fd = open("/proc/self/exe", O_PATH);
    snprintf(number, sizeof number, "%d", fd);
    char *argv[] = {"/walls/probe", "reopen", number, "100", 0}, *envp[] = {0};
    execve("/walls/probe", argv, envp);
}
"#;

fn self_exe(stage: &Stage) -> String {
    let before = cofferdam_tests::digest(&fs::read(program()).unwrap());
    let context = stage.context(
        "RUN printf '#!/proc/self/exe\\n' > /entry && chmod 755 /entry\nENV LD_PRELOAD=/walls/takeover.so\nRUN [\"/entry\"]",
    );
    let dir = tempfile::tempdir().unwrap();
    let (source, object) = (dir.path().join("takeover.c"), dir.path().join("takeover.so"));
    fs::write(&source, TAKEOVER).unwrap();
    let compiled =
        Command::new("gcc").args(["-shared", "-fPIC", "-o"]).args([&object, &source]).status();
    assert!(compiled.unwrap().success());
    context.write("rootfs/walls/takeover.so", fs::read(&object).unwrap());
    // What the starter is linked with, so that its loader gets as far as that.
    let listed = Command::new("ldd").arg(program()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let inside = format!("rootfs{library}");
        context.write(&inside, fs::read(library).unwrap()).mode(&inside, 0o755);
    }
    let outcome = stage.builder.build(&context).run();
    let said: Vec<String> = outcome.steps().iter().flat_map(|step| step.log.clone()).collect();
    let taken = said.iter().any(|line| line.starts_with("wall starter"));
    if taken {
        let _ = Findings::read(&said.join("\n")).held(&["starter"]);
    }
    assert_eq!(
        cofferdam_tests::digest(&fs::read(program()).unwrap()),
        before,
        "the program was changed"
    );
    let line = said.iter().find(|line| line.starts_with("wall starter")).cloned();
    line.unwrap_or_else(|| "the starter's program does not run in a step".to_owned())
}

fn overwritten(_: &Stage) -> Control {
    let dir = tempfile::tempdir().unwrap();
    let script = "cp /bin/sleep starter && { ./starter 100 & pid=$!; } && sleep 0.2 && exec 7</proc/$pid/exe && kill $pid; wait $pid 2>/dev/null; echo overwritten > /proc/self/fd/7; cat starter";
    let said = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "overwritten\n", "{said:?}");
    Control::Shown(
        "a program is overwritten through /proc/<pid>/exe where that can be opened".to_owned(),
    )
}

fn over_proc(stage: &Stage) -> String {
    let mut refused = 0;
    let places =
        ["/proc", "/proc/self/attr", "/proc/self", "/sys", "/dev", "/dev/null", "/sys/fs/cgroup"];
    for place in places {
        for mount in [
            format!(
                "RUN --mount=type=cache,target={place} cat /proc/self/status && cat {place}/planted"
            ),
            format!("RUN --mount=type=tmpfs,target={place} cat /proc/self/status"),
            format!("VOLUME {place}\nRUN : {place}; cat /proc/self/status"),
        ] {
            let outcome = stage.run(&mount);
            // A volume is a word in the image; it must not be a mount of a step.
            let proc = outcome.stderr.contains("CapBnd");
            assert!(outcome.code != Some(0) || proc, "{mount}: {}", outcome.stderr);
            refused += u32::from(outcome.code != Some(0));
        }
    }
    assert!(refused >= 6, "{refused} refused");
    format!("{refused} of {} mounts refused, no volume mounted", 3 * places.len())
}

fn false_proc(_: &Stage) -> Control {
    let root = Cage::get().path();
    let script = format!(
        "mount -t tmpfs none {root}/proc && mkdir -p {root}/proc/self/attr && touch {root}/proc/self/attr/exec && chroot {root} ls /proc/self/attr",
        root = root.display()
    );
    let said = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "exec\n", "{said:?}");
    Control::Shown("a mount over /proc is believed".to_owned())
}

/// A root in which these are links to a directory of the host that exists inside too.
fn linked(name: &str, paths: &[&str], target: &str) -> String {
    let mut gone: Vec<_> = paths.iter().map(|path| evil('0', &format!(".wh.{path}"), "")).collect();
    gone.extend(paths.iter().map(|path| evil('2', path, target)));
    let (whiteouts, links) = gone.split_at(paths.len());
    let layers = [crate::naive::archive(whiteouts), crate::naive::archive(links)];
    image(name, &layers, |_| {})
}

fn linked_mounts(stage: &Stage) -> String {
    let target = stage.planted.open();
    let mut said = Vec::new();
    for (number, paths) in
        [&["dev"][..], &["proc"], &["sys"], &["dev", "proc", "sys"]].iter().enumerate()
    {
        let from =
            linked(&format!("links-{}-{number}", stage.level), paths, target.to_str().unwrap());
        let context = Context::dockerfile(&format!(
            "FROM {from}\nRUN mkdir -p {} ; ls -ld /dev /proc /sys; cat /proc/self/mounts | cut -d' ' -f2,3; echo x > /dev/null; ls -A {}\n",
            target.display(),
            target.display()
        ));
        let outcome = stage.builder.build(&context).run();
        stage.planted.unchanged();
        said.push(if outcome.code == Some(0) { "mounted inside" } else { "refused" });
    }
    format!("{said:?}, nothing of the host touched")
}

/// Debian's runc of 2023, which made its links of /dev by joined paths.
fn runc(_: &Stage) -> Control {
    let bait = Bait::new();
    let cage = Cage::new();
    let root = cage.path();
    fs::remove_dir(root.join("dev")).unwrap();
    std::os::unix::fs::symlink(bait.outside(), root.join("dev")).unwrap();
    let bundle = tempfile::tempdir().unwrap();
    let runc = |args: &[&str]| {
        Command::new("runc")
            .arg("--root")
            .arg(bundle.path().join("state"))
            .args(args)
            .current_dir(bundle.path())
            .output()
            .unwrap()
    };
    assert!(runc(&["spec"]).status.success());
    let file = bundle.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["root"] = json!({ "path": root, "readonly": false });
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["true"]);
    config["mounts"] = json!([{ "destination": "/proc", "type": "proc", "source": "proc" }]);
    fs::write(&file, config.to_string()).unwrap();
    let name = format!("walls-{}", std::process::id());
    let seen = crate::attack::attempt(|| {
        bait.harmed(|_| {
            runc(&["run", &name]);
        })
    });
    runc(&["delete", "--force", &name]);
    seen.map_or(Control::Impossible("the runc of this machine is repaired"), |_| {
        Control::Shown("Debian's runc 1.1.5 makes links in the directory of the host".to_owned())
    })
}

fn masks(stage: &Stage) -> String {
    let outcome =
        stage.run("RUN --mount=type=cache,target=/shared /walls/probe masks 1.5").success();
    Findings::read(&outcome.log("masks")).held(&["masks-raced"])
}

fn own_devices(_: &Stage) -> Control {
    let said = Cage::get().probe(Devices::Own, &[], &["masks", "0.3"]);
    Control::Shown(Findings::read(&said).breached(&["masks-raced"]))
}
