//! What it can read: credentials, files and processes of others, the host.

use std::fs;
use std::process::Command;

use cofferdam_tests::buildpacks::{FLOWS, Flow};
use cofferdam_tests::registry::{PASSWORD, USER, basic};
use cofferdam_tests::{Registry, images};

use super::Attack;

/// Looks for a text in all files it may read, and in the environment of all processes it may see. Only kernel files that have no
/// end or make the kernel do something are left out.
const SEARCH: &str = r#"
seek() {
    find / -xdev -path /proc/sys -prune -o -type f -exec grep -l -e "$1" {} + 2>/dev/null | grep -v "^$0\$" | sed 's/^/FOUND in /'
    for mount in $(cut -d' ' -f2 /proc/self/mounts | sort -u); do
        case $mount in /|/proc*|/sys*|/dev*) continue ;; esac
        find "$mount" -xdev -type f -exec grep -l -e "$1" {} + 2>/dev/null | grep -v "^$0\$" | sed 's/^/FOUND in /'
    done
    for process in /proc/[0-9]*; do
        tr '\0' '\n' < "$process/environ" 2>/dev/null | grep -q -e "$1" && echo "FOUND in $process"
        tr '\0' '\n' < "$process/cmdline" 2>/dev/null | grep -q -e "$1" && echo "FOUND in $process"
    done
    echo searched
}
"#;

#[test]
fn no_credential_of_a_registry_can_be_found() {
    // The password itself, and what stands in docker's configuration and in headers.
    let encoded = basic(USER, PASSWORD).trim_start_matches("Basic ").to_owned();
    // Written so that the search does not find itself.
    let half = |text: &str| format!("{}[{}]{}", &text[..4], &text[4..5], &text[5..]);
    let seek = format!("{SEARCH}\nseek '{}\\|{}'", half(PASSWORD), half(&encoded));
    let attack = Attack::new(&seek, &seek);
    let registry = Registry::with_password();
    let (layer, config) = images::parts("busybox");
    registry.push_image("base", "1", &[layer], &config);
    for flow in FLOWS {
        // Pulls and pushes with the credential: the run image is behind it, and so is the output.
        let name = registry.reference(&format!("app-{}:1", flow.name()));
        let build = attack.workshop.daemon().build(&attack.app);
        let build =
            build.login(registry.address(), USER, PASSWORD).arg("--builder").arg(&attack.builder);
        let build = build.arg("--run-image").arg(registry.reference("base:1"));
        let build = if flow == Flow::Trusted { build.arg("--trust-builder") } else { build };
        let outcome = build.arg("--push").arg("--tag").arg(name).run().success();
        assert!(registry.manifest(&format!("app-{}", flow.name()), "1").is_some());
        for step in [&*flow.detect("test/hostile@1.0.0"), "[build] test/hostile@1.0.0"] {
            let log = outcome.log(step);
            assert_eq!(log, "searched", "{step}");
        }
        assert!(!outcome.stderr.contains(PASSWORD) && !outcome.stderr.contains(&encoded));
    }
    // Control: the same search finds it in a file and in the environment of the buildpack itself.
    let told = Attack::new("true", &format!("echo '{PASSWORD}' > /tmp/planted\n{seek}"));
    let said = told.said(Flow::Untrusted)[1].clone();
    assert!(said.contains("FOUND in /tmp/planted"), "{said}");
    let build = told.workshop.build(&told.app, &told.builder, Flow::Untrusted);
    let outcome = build.arg("--env").arg(format!("PLANTED={PASSWORD}")).run().success();
    let said = outcome.log("[build] test/hostile@1.0.0");
    assert!(said.contains("FOUND in /platform/env/PLANTED"), "{said}");
    assert!(said.contains("FOUND in /proc/"), "{said}");
}

#[test]
fn processes_and_sockets_of_the_host_are_not_there() {
    let mark = tempfile::Builder::new().prefix("planted-").tempdir().unwrap();
    let socket = mark.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::write(mark.path().join("file"), "of the host").unwrap();
    let look = format!(
        r#"
        ls -d /proc/[0-9]* | wc -l
        for path in {planted} /var/run/docker.sock /run/docker.sock /run/podman /run/cofferdam /store /proc/1/root{planted} /proc/1/cwd/store; do
            [ -e $path ] && echo "FOUND $path"
        done
        find / -xdev -type s 2>/dev/null | sed 's/^/FOUND /'
        cat /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' | grep -i -e docker -e cofferdam -e secret | sed 's/^/FOUND /'
        echo looked
        "#,
        planted = mark.path().display()
    );
    let attack = Attack::new(&look, &look);
    for flow in FLOWS {
        for said in attack.said(flow) {
            let count: u32 = said.lines().next().unwrap().trim().parse().unwrap();
            assert!(count < 12, "{flow:?}: {said}");
            assert!(said.ends_with("looked") && !said.contains("FOUND"), "{flow:?}: {said}");
        }
    }
    // Control: a process of the host sees all of it.
    let host = Command::new("sh").arg("-c").arg(&look).output().unwrap();
    let said = String::from_utf8_lossy(&host.stdout).into_owned();
    assert!(said.contains(&format!("FOUND {}", mark.path().display())), "{said}");
    // With what is planted mounted, a buildpack sees it as well.
    let volume = format!("{}:/planted", mark.path().display());
    let seeing = Attack::new("true", "cat /planted/file");
    let build = seeing.workshop.build(&seeing.app, &seeing.builder, Flow::Trusted);
    let outcome = build.arg("--volume").arg(volume).run().success();
    assert_eq!(outcome.log("[build] test/hostile@1.0.0"), "of the host");
}

#[test]
fn environment_is_what_the_specification_gives() {
    let attack = Attack::new("env | cut -d= -f1 | sort", "env | cut -d= -f1 | sort");
    for flow in FLOWS {
        for said in attack.said(flow) {
            for name in said.lines() {
                let known = name.starts_with("CNB_")
                    || [
                        "HOME",
                        "PATH",
                        "PWD",
                        "SHLVL",
                        "HOSTNAME",
                        "LD_LIBRARY_PATH",
                        "LIBRARY_PATH",
                        "_",
                    ]
                    .contains(&name);
                assert!(known, "{flow:?}: {name}");
            }
        }
    }
}

#[test]
fn the_root_of_an_untrusted_call_is_fresh_and_that_of_a_trusted_build_is_shared() {
    let leave = r#"cat /tmp/left /home/cnb/left 2>/dev/null; echo "left by $0" > /tmp/left; echo home > /home/cnb/left"#;
    let attack = Attack::new(leave, leave);
    let [_, build] = attack.said(Flow::Untrusted);
    assert_eq!(build, "");
    let [_, build] = attack.said(Flow::Trusted);
    assert!(build.contains("bin/detect") && build.contains("home"), "control: {build}");
}
