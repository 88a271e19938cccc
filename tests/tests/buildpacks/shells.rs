//! Processes that want a shell: those of older interfaces, and what somebody types.

use cofferdam_tests::Context;
use cofferdam_tests::buildpacks::{Flow, Podman, Workshop, debian_base};

const DESCRIPTOR: &str =
    "api = \"0.8\"\n[buildpack]\nid = \"test/old\"\nversion = \"1.0.0\"\n[[stacks]]\nid = \"*\"\n";

const BUILD: &str = r#"
mkdir -p "$CNB_LAYERS_DIR/l/profile.d"
echo 'export FROM_PROFILE="$(echo evaluated)"' > "$CNB_LAYERS_DIR/l/profile.d/a.sh"
printf '[types]\nlaunch = true\n' > "$CNB_LAYERS_DIR/l.toml"
cat > "$CNB_LAYERS_DIR/launch.toml" <<'TOML'
[[processes]]
type = "shell"
command = "echo"
args = ["$FROM_PROFILE", "$APP_PROFILE", "$(echo computed)"]
default = true

[[processes]]
type = "script"
command = "echo $FROM_PROFILE; echo two"

[[processes]]
type = "direct"
command = "echo"
args = ["$FROM_PROFILE", "stays"]
direct = true
TOML
"#;

#[test]
fn profiles_are_read_where_a_shell_is_wanted() {
    let workshop = Workshop::new();
    workshop.module("old", "buildpack", DESCRIPTOR, &[("detect", "exit 0"), ("build", BUILD)]);
    let text = "[[buildpacks]]\nuri = \"old\"\n[[order]]\n[[order.group]]\nid = \"test/old\"\n";
    let base = debian_base();
    let _ = workshop.create_on(&base, &base, "builder", text).success();
    let app = Context::new(&[(".profile", "export APP_PROFILE=app\n")]);
    let builder = workshop.reference("builder");
    let _ = workshop.build(&app, &builder, Flow::Trusted).run().success();

    let (podman, image) = (Podman::new(), workshop.reference("app-trusted"));
    let ran = |flags: &str, args: &[&str]| podman.run(&image, flags, args).success().text();
    assert_eq!(ran("", &[]), "evaluated app computed\n");
    assert_eq!(ran("--entrypoint script", &[]), "evaluated\ntwo\n");
    assert_eq!(ran("--entrypoint direct", &[]), "$FROM_PROFILE stays\n");
    assert_eq!(ran("--entrypoint direct", &["more"]), "$FROM_PROFILE stays more\n");
    assert_eq!(ran("--entrypoint launcher", &["echo $FROM_PROFILE typed"]), "evaluated typed\n");
    assert_eq!(ran("--entrypoint launcher", &["--", "echo", "$FROM_PROFILE"]), "$FROM_PROFILE\n");
}
