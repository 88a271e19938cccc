//! What a hostile buildpack finds and does. Each attempt has a control that succeeds where the wall is not.

use std::fs;
use std::process::Command;

use cofferdam_tests::buildpacks::{
    FLOWS, Flow, LAYER_TIME, OWNER, Workshop, label, push_base, run_base,
};
use cofferdam_tests::registry::{PASSWORD, USER, basic};
use cofferdam_tests::{Context, Outcome, Registry, images, is_root};

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

/// A buildpack `test/hostile` whose programs both do this, after a harmless `test/victim` with a layer.
struct Attack {
    workshop: Workshop,
    builder: String,
    app: Context,
}

const VICTIM: &str = r#"
mkdir -p "$CNB_LAYERS_DIR/tool/bin"
echo original > "$CNB_LAYERS_DIR/tool/data"
printf '[types]\nlaunch = true\nbuild = true\n' > "$CNB_LAYERS_DIR/tool.toml"
"#;

impl Attack {
    /// `detect` must not fail: what it finds is what it says.
    fn new(detect: &str, build: &str) -> Self {
        let workshop = Workshop::new();
        workshop.buildpack("victim", "exit 0", VICTIM);
        workshop.buildpack("hostile", &format!("{detect}\nexit 0"), build);
        let builder = workshop.image("builder", &["victim", "hostile"]);
        Self { workshop, builder, app: Context::new(&[("file", "of the app")]) }
    }

    fn build(&self, flow: Flow) -> Outcome {
        self.workshop.build(&self.app, &self.builder, flow).run()
    }

    /// What `bin/detect` and `bin/build` of the hostile buildpack said.
    fn said(&self, flow: Flow) -> [String; 2] {
        let outcome = self.build(flow).success();
        [&*flow.detect("test/hostile@1.0.0"), "[build] test/hostile@1.0.0"]
            .map(|step| outcome.log(step))
    }
}

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
fn layers_of_others_can_be_read_and_not_written() {
    let attack = Attack::new(
        "ls /layers 2>/dev/null | wc -l",
        r#"
        other=/layers/test_victim
        cat $other/tool/data
        for attempt in "echo x > $other/tool/data" "echo x > $other/new" "rm $other/tool.toml" "mkdir $other/more" \
            "mv $other/tool $other/gone" "chmod 777 $other" "ln -s /etc $other/link" "mkdir /layers/own" \
            "mv /layers/test_victim /layers/v" "rm -r /layers/test_victim/tool"; do
            if sh -c "$attempt" 2>/dev/null; then echo "DID $attempt"; else echo refused; fi
        done
        echo x > "$CNB_LAYERS_DIR/mine" && echo "wrote its own"
        "#,
    );
    for flow in FLOWS {
        let [detect, build] = attack.said(flow);
        assert_eq!(detect, "0", "there are no layers while detection runs");
        assert!(build.starts_with("original\n"), "control: it can be read: {build}");
        assert!(!build.contains("DID"), "{build}");
        assert_eq!(build.matches("refused").count(), 10, "{build}");
        assert!(build.ends_with("wrote its own"), "control: {build}");
        let image = attack.workshop.app(flow);
        assert_eq!(image.text("layers/test_victim/tool/data"), "original\n");
    }
}

#[test]
fn neither_its_own_directory_nor_the_platforms_can_be_written() {
    let attempts = |layers: &str| {
        format!(
            r#"
        for place in {layers} /cnb /cnb/order.toml /cnb/buildpacks/test_victim/1.0.0 /cnb/buildpacks/test_hostile/1.0.0/bin/build \
            /cnb/lifecycle /cnb/lifecycle/launcher /platform /platform/env /platform/env/ADDED /cnb-attempt/attempt; do
            if [ -d $place ]; then target=$place/planted; else target=$place; fi
            if (echo planted > $target) 2>/dev/null; then echo "WROTE $target"; else echo refused; fi
        done
        (echo x > /tmp/x) && echo "wrote to /tmp"
    "#
        )
    };
    // While detection runs, /layers is a directory of the builder image like any other, and is lost with the root.
    let attack =
        Attack::new(&attempts(""), &attempts("/layers /layers/order.toml /layers/test_victim"));
    for flow in FLOWS {
        for (said, count) in attack.said(flow).iter().zip([10, 13]) {
            assert!(!said.contains("WROTE"), "{flow:?}: {said}");
            assert_eq!(said.matches("refused").count(), count, "{flow:?}: {said}");
            assert!(said.ends_with("wrote to /tmp"), "control: {said}");
        }
    }
}

#[test]
fn files_that_lifecycles_trust_are_only_files() {
    // Where a lifecycle would read them, and in each place that a buildpack may write.
    let other = push_base("cnb/other-run", &[], "of the attacker");
    let plant = format!(
        r#"
        for place in /layers "$CNB_LAYERS_DIR" "$CNB_LAYERS_DIR/.." /workspace /tmp /platform /cnb; do
            printf '[run-image]\nreference = "{other}"\nimage = "{other}"\n' > "$place/analyzed.toml"
            printf '[[group]]\nid = "test/evil"\nversion = "1.0.0"\napi = "0.12"\n' > "$place/group.toml"
            printf '[[order]]\n[[order.group]]\nid = "test/evil"\nversion = "1.0.0"\n' > "$place/order.toml"
            printf '[[images]]\nimage = "{other}"\n' > "$place/run.toml"
            printf '[[entries]]\n' > "$place/plan.toml"
            mkdir -p "$place/config" && printf '[[processes]]\ntype = "evil"\ncommand = ["x"]\n' > "$place/config/metadata.toml"
        done 2>/dev/null
        ls "$CNB_LAYERS_DIR" 2>/dev/null
        "#
    );
    let attack = Attack::new(&plant, &plant);
    for flow in FLOWS {
        let [_, build] = attack.said(flow);
        let image = attack.workshop.app(flow);
        let metadata = label(&image, "io.buildpacks.lifecycle.metadata");
        assert_eq!(metadata["runImage"]["image"], run_base(), "{flow:?}: {metadata}");
        assert_eq!(image.text("etc/base"), "", "the run image is the builder's");
        let keys: Vec<&str> = metadata["buildpacks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|buildpack| buildpack["key"].as_str().unwrap())
            .collect();
        assert_eq!(keys, ["test/victim", "test/hostile"]);
        let text = image.text("layers/config/metadata.toml");
        assert!(!text.contains("evil"), "{text}");
        assert!(build.contains("group.toml"), "control: its own directory was written: {build}");
    }
    // Control: with that run image the file is another.
    let build = attack.workshop.build(&attack.app, &attack.builder, Flow::Trusted);
    let _ = build.arg("--run-image").arg(&other).run().success();
    assert_eq!(attack.workshop.app(Flow::Trusted).text("etc/base"), "of the attacker");
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

#[test]
fn links_stay_links() {
    let planted = tempfile::Builder::new().prefix("planted-").tempfile().unwrap();
    fs::write(planted.path(), "of the host").unwrap();
    let script = format!(
        r#"
        mkdir -p "$CNB_LAYERS_DIR/evil" && cd "$CNB_LAYERS_DIR/evil"
        ln -s {planted} absolute
        ln -s ../../../../../../../../../../../{planted} up
        ln -s /proc/self/environ environ
        ln -s / root
        ln -s {planted} env
        echo real > one && ln one two
        mkfifo pipe
        printf '[types]\nlaunch = true\nbuild = true\ncache = true\n' > ../evil.toml
        ln -s {planted} ../launch.toml
        ln -s {planted} ../store.toml
        ln -s {planted} ../evil.sbom.cdx.json
        ln -s {planted} /workspace/link
        "#,
        planted = planted.path().display()
    );
    let attack = Attack::new("true", &script);
    for flow in FLOWS {
        let outcome = attack.build(flow).success();
        let image = attack.workshop.app(flow);
        let files = image.files();
        for (name, kind) in [
            ("absolute", 'l'),
            ("up", 'l'),
            ("environ", 'l'),
            ("root", 'l'),
            ("env", 'l'),
            ("one", 'f'),
            ("two", 'f'),
        ] {
            let entry = &files[&format!("layers/test_hostile/evil/{name}")];
            assert_eq!(entry.kind, kind, "{name}: {entry:?}");
            assert_eq!((entry.uid, entry.gid, entry.mtime), (OWNER.0, OWNER.1, LAYER_TIME));
        }
        assert_eq!(
            files["layers/test_hostile/evil/absolute"].link,
            planted.path().display().to_string()
        );
        assert_eq!(files["workspace/link"].kind, 'l');
        for layer in 0..image.depth() {
            for (path, entry) in image.layer(layer) {
                assert!(!entry.text().contains("of the host"), "{path}");
            }
        }
        assert!(!outcome.stderr.contains("of the host"), "{}", outcome.stderr);
    }
}

#[test]
fn a_link_is_no_layer() {
    let script = r#"
        ln -s /etc "$CNB_LAYERS_DIR/linked"
        printf '[types]\nlaunch = true\n' > "$CNB_LAYERS_DIR/linked.toml"
    "#;
    let attack = Attack::new("true", script);
    for flow in FLOWS {
        let outcome = attack.build(flow);
        assert_eq!(outcome.code, Some(62), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("linked"), "{}", outcome.stderr);
        assert!(!attack.workshop.has(&format!("app-{}", flow.name())));
    }
}

#[test]
fn devices_cannot_be_made() {
    let script = r#"
        mkdir -p "$CNB_LAYERS_DIR/evil" && cd "$CNB_LAYERS_DIR/evil"
        mknod disk b 8 0 2>/dev/null && echo "MADE a device"
        mknod null c 1 3 2>/dev/null && echo "MADE a device"
        mknod pipe p && echo "control: a pipe"
        rm pipe
    "#;
    let attack = Attack::new("true", script);
    for flow in FLOWS {
        assert_eq!(attack.said(flow)[1], "control: a pipe");
    }
    if is_root() {
        let dir = tempfile::tempdir().unwrap();
        let made =
            Command::new("mknod").arg(dir.path().join("null")).args(["c", "1", "3"]).status();
        assert!(made.unwrap().success(), "control: the host's root can");
    }
}

#[test]
fn escape_sequences_do_not_reach_a_terminal() {
    let evil = r#"printf '\033[2J\033]0;title\007 \233 colour \033[31m and \r over\n'"#;
    let script = format!(
        r#"{evil}; {evil} >&2
        printf '[[processes]]\ntype = "\\u001b[2Jevil/"\ncommand = ["x"]\n' > "$CNB_LAYERS_DIR/launch.toml""#
    );
    let attack = Attack::new(evil, &script);
    for flow in FLOWS {
        let outcome = attack.build(flow);
        assert!(
            outcome.stderr.contains("colour"),
            "control: the line is there: {}",
            outcome.stderr
        );
        let text = format!("{}{}", outcome.stderr, outcome.text());
        for line in text.lines() {
            let raw = line.chars().find(|c| c.is_control() && *c != '\t');
            assert_eq!(raw, None, "{flow:?}: {line:?}");
        }
        assert!(outcome.failure().contains("launch.toml"));
    }
}
