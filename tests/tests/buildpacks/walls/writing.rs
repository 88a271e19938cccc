//! What it can write: its own layers, the app, temporary files, and nothing that others believe.

use cofferdam_tests::buildpacks::{FLOWS, Flow, label, push_base, run_base};

use super::Attack;

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
