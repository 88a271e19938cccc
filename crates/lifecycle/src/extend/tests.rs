#![allow(clippy::unwrap_used)]
use cofferdam_cnb::MAX_FILE;

use super::*;

#[test]
fn configs_have_arguments_for_both_images() {
    let text =
        b"[[build.args]]\nname = \"a\"\nvalue = \"1\"\n[[run.args]]\nname = \"b\"\nvalue = \"2\"\n";
    let config = extend_config("extend-config.toml", text).unwrap();
    assert_eq!((config.build[0].name.as_str(), config.run[0].value.as_str()), ("a", "2"));
    assert_eq!(extend_config("e", b"").unwrap(), ExtendConfig::default());
    for name in ["build_id", "user_id", "group_id", "base_image", "", "a=b", "a b", "a\\n"] {
        let text = format!("[[run.args]]\nname = \"{name}\"\nvalue = \"1\"\n");
        let error = extend_config("e.toml", text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("run.args.name"), "{error}");
        assert_eq!(error.exit_code(), 92);
    }
    assert!(extend_config("e", b"build = 1").is_err());
}

#[test]
fn build_dockerfiles_have_one_form() {
    let good = "# c\n\nARG base_image\nFROM ${base_image}\nRUN a \\\n  && b\n# x\nRUN <<EOF\nFROM y\nEOF\n";
    assert!(check_build_dockerfile("b", good.as_bytes()).unwrap().is_empty());
    let odd = "arg base_image=x\nfrom ${base_image}\nHEALTHCHECK NONE\n";
    let warnings = check_build_dockerfile("b", odd.as_bytes()).unwrap();
    assert_eq!(warnings, ["b: line 3: HEALTHCHECK is not recommended"]);
    for wrong in [
        "",
        "FROM ${base_image}",
        "ARG base_image",
        "ARG other\nFROM ${base_image}",
        "ARG base_image\nARG other\nFROM ${base_image}",
        "ARG base_image\nFROM alpine",
        "ARG base_image\nFROM $base_image",
        "ARG base_image\nFROM ${base_image}\nFROM ${base_image}",
        "ARG base_image\nFROM ${base_image} AS a\nRUN x\nFROM alpine",
        "RUN x\nARG base_image\nFROM ${base_image}",
        "ARG base_image\nFROM \\\n ${base_image}",
        "\u{0}",
    ] {
        assert!(check_build_dockerfile("b", wrong.as_bytes()).is_err(), "{wrong:?}");
    }
    assert!(check_build_dockerfile("b", b"\xff").is_err());
    assert!(check_build_dockerfile("b", &vec![b'#'; MAX_FILE + 1]).is_err());
}

#[test]
fn run_dockerfiles_switch_or_extend() {
    let check = |text: &str| check_run_dockerfile("run.Dockerfile", text.as_bytes());
    let switch = check("FROM --platform=linux/amd64 run/curl:1 AS x").unwrap();
    assert_eq!((switch.switch_to.as_deref(), switch.extends), (Some("run/curl:1"), false));
    let extend = check("ARG base_image\nFROM ${base_image}\nRUN x").unwrap();
    assert_eq!((extend.switch_to, extend.extends), (None, true));
    let both = check("FROM other\nRUN x").unwrap();
    assert!(both.switch_to.is_some() && both.extends);
    for wrong in ["", "RUN x", "FROM a\nFROM b", "FROM ${other}", "FROM $base_image", "FROM"] {
        assert!(check(wrong).is_err(), "{wrong:?}");
    }
    let hidden = "FROM a\nRUN cat <<-\"E\" > x\n\tE\nFROM b\n";
    assert!(check(hidden).is_err(), "the here-document ended");
    let escaped = "# escape=`\nFROM a\nRUN x `\nFROM b\n";
    assert!(check(escaped).unwrap().extends, "a continued line is no instruction");
    assert!(check("FROM a\nRUN x `\nFROM b\n").is_err());
}

#[test]
fn the_last_switch_wins() {
    let dockerfile = |switch_to: Option<&str>, extends| RunDockerfile {
        switch_to: switch_to.map(str::to_owned),
        extends,
        warnings: Vec::new(),
    };
    let all = [
        dockerfile(None, true),
        dockerfile(Some("one"), true),
        dockerfile(None, true),
        dockerfile(Some("two"), false),
        dockerfile(None, true),
    ];
    let change = run_change(&all);
    assert_eq!((change.switch_to.as_deref(), change.execute.as_slice()), (Some("two"), &[4][..]));
    let change = run_change(&all[..3]);
    assert_eq!(
        (change.switch_to.as_deref(), change.execute.as_slice()),
        (Some("one"), &[1, 2][..])
    );
    assert_eq!(run_change(&all[..1]).execute, [0]);
    assert_eq!(run_change(&[]), RunChange::default());
}
