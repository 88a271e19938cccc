#![allow(clippy::unwrap_used)]
use super::*;

const SMALLEST: &str = "[build]\nimage = \"b\"\n[[run.images]]\nimage = \"r\"\n[[order]]\n\
                        [[order.group]]\nid = \"a\"\n";

fn read(text: &str) -> (BuilderToml, Vec<String>) {
    BuilderToml::parse("builder.toml", text.as_bytes()).unwrap()
}

#[test]
fn the_whole_file_is_read() {
    let (made, warnings) = read(
        r#"
        description = "ours"
        [[buildpacks]]
        id = "samples/java"
        version = "1.0.0"
        uri = "./java"
        [[buildpacks]]
        image = "a/b:1"
        [[extensions]]
        uri = "./curl"
        [[order]]
        [[order.group]]
        id = "samples/java"
        version = "1.0.0"
        optional = true
        exec-env = ["test"]
        [[order-extensions]]
        [[order-extensions.group]]
        id = "samples/curl"
        [[system.pre.buildpacks]]
        id = "samples/pre"
        version = "1.0.0"
        [[system.post.buildpacks]]
        id = "samples/post"
        version = "1.0.0"
        optional = true
        [build]
        image = "build:1"
        [[build.env]]
        name = "A"
        value = "1"
        [[build.env]]
        name = "P"
        value = "x"
        suffix = "append"
        delim = ":"
        [run]
        [[run.images]]
        image = "run:1"
        mirrors = ["m.io/run:1"]
        [lifecycle]
        version = "0.20.0"
        [[targets]]
        os = "linux"
        arch = "arm64"
        variant = "v8"
        [[targets.distros]]
        name = "debian"
        version = "12"
        "#,
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(made.buildpacks[0].uri, "./java");
    assert_eq!(made.buildpacks[1].uri, "docker://a/b:1");
    assert_eq!(made.extensions.len(), 1);
    let element = &made.order[0].group[0];
    assert!(element.optional && element.exec_env == ["test"]);
    assert_eq!(made.order_extensions[0].group[0].id, "samples/curl");
    assert_eq!(made.system.pre.buildpacks[0].id, "samples/pre");
    assert!(made.system.post.buildpacks[0].optional);
    assert_eq!(made.build_image, "build:1");
    assert_eq!(made.run_images[0].mirrors, ["m.io/run:1"]);
    assert_eq!(made.lifecycle, Some(LifecycleSource::Version("0.20.0".to_owned())));
    assert_eq!(made.targets[0].distros[0].name, "debian");
    let files = made.build_env.iter().flat_map(BuildEnv::files).collect::<Vec<_>>();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(files, [pair("A.default", "1"), pair("P.append", "x"), pair("P.delim", ":")]);
}

#[test]
fn the_deprecated_stack_is_understood() {
    let stack = "[stack]\nid = \"s\"\nbuild-image = \"b\"\nrun-image = \"r\"\n\
                 run-image-mirrors = [\"m\"]\n";
    let (made, warnings) = read(stack);
    assert_eq!((made.build_image.as_str(), made.stack_id.as_deref()), ("b", Some("s")));
    assert_eq!(made.run_images[0].mirrors, ["m"]);
    assert_eq!(warnings.len(), 2, "the empty order and the stack: {warnings:?}");
    assert!(read(&format!("{SMALLEST}{stack}")).1[0].contains("[stack] is deprecated"));
    let (made, warnings) = read(&format!(
        "{SMALLEST}[[build.env]]\nname = \"A\"\nvalue = \"1\"\n[[build.env]]\nname = \"A\"\nvalue = \"2\"\n"
    ));
    assert_eq!((made.build_env.len(), made.build_env[0].value.as_str()), (1, "2"));
    assert_eq!(warnings.len(), 1);
}

#[test]
fn what_is_wrong_is_named() {
    let with = |rest: &str| format!("{SMALLEST}{rest}");
    for (text, message) in [
        (with("[lifecycle]\nimage = \"x\""), "unknown field `image`"),
        (with("[[buildpacks]]\nuri = \"x\"\nname = \"y\""), "unknown field `name`"),
        (format!("descripton = \"x\"\n{SMALLEST}"), "unknown field `descripton`"),
        (format!("\"\\u001b[31m\" = 1\n{SMALLEST}"), "unknown field `\u{fffd}[31m`"),
        (with("[[order.group]]\nid = \"b\"\nversoin = \"1\""), "unknown field `versoin`"),
        (with("[lifecycle]\nversion = \"1\"\nuri = \"x\""), "lifecycle: has both"),
        (with("[[buildpacks]]\nid = \"x\""), "buildpacks[0]: needs a uri"),
        (with("[[buildpacks]]\nuri = \"x\"\nimage = \"x\""), "both a uri and an image"),
        (with("[[buildpacks]]\nuri = \"x\"\nid = \"../x\""), "buildpacks[0].id: id \"../x\""),
        (with("[[extensions]]\nuri = \"x\"\nversion = \"/\""), "extensions[0].version"),
        (with("[[order]]\n"), "order[1].group: is empty"),
        (with("[[system.pre.buildpacks]]\nid = \"\\u001b\""), "system.pre.buildpacks[0].id"),
        (
            with("[[build.env]]\nname = \"A\"\nsuffix = \"append\""),
            "build.env[0].delim: is needed to append",
        ),
        (with("[[build.env]]\nname = \"A\"\nsuffix = \"add\""), "\"add\" is not default"),
        (with("[[build.env]]\nname = \"A.delim\""), "build.env[0].name"),
        (with("[[build.env]]\nname = \"../A\""), "build.env[0].name"),
        (with("[stack]\nbuild-image = \"other\""), "build.image: is not the same"),
        (with("[stack]\nrun-image = \"other\""), "run.images[0].image: is not the same"),
        ("[[run.images]]\nimage = \"r\"".to_owned(), "build.image: is missing"),
        ("[build]\nimage = \"b\"".to_owned(), "run.images: is missing"),
        ("[build]\nimage = \"B\"\n[[run.images]]\nimage = \"r\"".to_owned(), "build.image: \"B\""),
        (
            "[build]\nimage = \"b\"\n[[run.images]]\nimage = \"\\u001b\"".to_owned(),
            "run.images[0].image",
        ),
    ] {
        let error =
            BuilderToml::parse("builder.toml", text.as_bytes()).expect_err(&text).to_string();
        assert!(error.starts_with("builder.toml: ") && error.contains(message), "{error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}
