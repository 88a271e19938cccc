//! What it can leave for the builder daemon to read: links, devices, pipes, names, text.

use std::fs;
use std::process::Command;

use cofferdam_tests::buildpacks::{FLOWS, LAYER_TIME, OWNER};
use cofferdam_tests::is_root;

use super::Attack;

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

/// Colours are harmless, and what people expect to see.
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\x1b[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';');
        match end.filter(|end| part[*end..].starts_with('m')) {
            Some(end) => text.push_str(&part[end + 1..]),
            None => text.push_str(&format!("\x1b[{part}")),
        }
    }
    text
}

#[test]
fn escape_sequences_do_not_reach_a_terminal() {
    let evil = r#"printf '\033[2J\033]0;title\007 \233 colour \033[31m\n covered \r over\n'"#;
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
            let raw = without_colours(line).chars().find(|c| c.is_control() && *c != '\t');
            assert_eq!(raw, None, "{flow:?}: {line:?}");
            // A colour ends with its line.
            assert!(!line.contains("\x1b[31m") || line.ends_with("\x1b[0m"), "{line:?}");
        }
        assert!(outcome.failure().contains("launch.toml"));
    }
}

#[test]
fn a_pipe_or_a_directory_in_place_of_a_file_stops_nobody() {
    // A reader that opens a pipe waits for a writer that never comes.
    for kind in ["mkfifo", "mkdir", "ln -s /dev/zero", "ln -s /proc/self/mem", "ln -s loop"] {
        let detect = format!("{kind} \"$CNB_BUILD_PLAN_PATH\"");
        let files = ["launch.toml", "build.toml", "store.toml", "l.toml", "l.sbom.cdx.json"];
        let build: String =
            files.map(|file| format!("{kind} \"$CNB_LAYERS_DIR/{file}\"\n")).concat();
        let attack = Attack::new("true", &format!("mkdir $CNB_LAYERS_DIR/l\n{build}"));
        for flow in FLOWS {
            let outcome = attack.build(flow);
            if outcome.code != Some(0) {
                assert!(outcome.failure().contains("test/hostile"), "{kind}: it is said who");
            }
        }
        let attack = Attack::new(&detect, "true");
        for flow in FLOWS {
            let outcome = attack.build(flow);
            if outcome.code != Some(0) {
                assert!(outcome.failure().contains("test/hostile"), "{kind}: it is said who");
            }
        }
    }
}

#[test]
fn the_place_of_its_exit_code_is_no_trap() {
    for trap in [
        "ln -s /etc/passwd result",
        "mkfifo result",
        "mkdir result",
        "ln -s result result",
        "echo 0 > result; exit 100",
    ] {
        let attack =
            Attack::new(&format!("cd $(dirname $CNB_BUILD_PLAN_PATH); {trap}"), "echo built");
        for flow in FLOWS {
            let outcome = attack.build(flow);
            assert!(outcome.code.is_some_and(|code| code != 0), "{trap}: {}", outcome.stderr);
            assert!(!outcome.mentions("[build] test/hostile@1.0.0"), "{trap}: {}", outcome.stderr);
        }
    }
}

#[test]
fn names_of_layers_lead_nowhere() {
    // `<layer>.toml` with names that are paths, and layers that are called like what the lifecycle makes.
    for name in [
        "..",
        ".",
        "launch",
        "build",
        "store",
        "$(printf 'a\\nb')",
        "$(printf '\\033[2Jx')",
        "$(printf '%0300d' 0 | head -c 240)",
    ] {
        let script = format!(
            r#"cd "$CNB_LAYERS_DIR"; mkdir -p "{name}" 2>/dev/null
            printf '[types]\nlaunch = true\ncache = true\n' > "{name}.toml"
            echo '{{}}' > "{name}.sbom.cdx.json""#
        );
        let attack = Attack::new("true", &script);
        for flow in FLOWS {
            let outcome = attack.build(flow);
            if outcome.code != Some(0) {
                assert!(outcome.failure().contains("test/hostile"), "{name}: it is said who");
                continue;
            }
            for path in attack.workshop.app(flow).files().keys() {
                let known =
                    ["layers/test_hostile", "layers/test_victim", "layers/config", "layers/sbom"];
                let own = known.iter().any(|known| path.starts_with(known));
                assert!(!path.starts_with("layers/") || own, "{name}: {path}");
                assert!(!path.contains("/../") && !path.contains("/./"), "{name}: {path}");
            }
        }
    }
}

#[test]
fn one_layer_cannot_pass_for_another() {
    let script = r#"
        cd "$CNB_LAYERS_DIR"; mkdir a
        echo kept > a/file
        printf '[types]\nlaunch = true\n' > a.toml
        printf '[types]\n' > a.toml.toml
    "#;
    let attack = Attack::new("true", script);
    for flow in FLOWS {
        let _ = attack.build(flow).success();
        assert_eq!(attack.workshop.app(flow).text("layers/test_hostile/a/file"), "kept\n");
    }
}
