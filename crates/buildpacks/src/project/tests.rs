#![allow(clippy::unwrap_used)]
use super::*;

fn read(text: &str) -> (ProjectDescriptor, Vec<String>) {
    ProjectDescriptor::parse("project.toml", text.as_bytes()).unwrap()
}

fn refused(text: &str) -> String {
    let error = ProjectDescriptor::parse("project.toml", text.as_bytes()).expect_err(text);
    let error = error.to_string();
    assert!(error.starts_with("project.toml: "), "{error}");
    assert!(!error.chars().any(|char| char.is_control() && char != '\n'), "{error:?}");
    error
}

fn locator(text: &str) -> GroupModule {
    GroupModule::Locator(text.to_owned())
}

#[test]
fn the_first_schema_is_assumed_with_a_warning() {
    let (made, warnings) = read(
        r#"
        [project]
        id = "shop"
        version = "1.2"
        source-url = "https://example.org/shop"
        authors = ["a"]
        [[project.licenses]]
        type = "MIT"
        [build]
        exclude = ["/target", "!keep"]
        builder = "heroku/builder:24"
        [[build.buildpacks]]
        id = "samples/java"
        version = "1.0.0"
        [[build.buildpacks]]
        uri = "./bp"
        [[build.buildpacks]]
        id = "me/inline"
        [build.buildpacks.script]
        api = "0.10"
        inline = "echo hi"
        [[build.env]]
        name = "A"
        value = "1"
        [metadata]
        anything = { goes = true }
        [other.table]
        also = 1
        "#,
    );
    assert_eq!(warnings, ["project.toml: no schema version is declared, 0.1 is assumed"]);
    assert_eq!(made.schema, Schema::V01);
    assert_eq!(made.exclude, ["/target", "!keep"]);
    assert_eq!(made.builder.as_deref(), Some("heroku/builder:24"));
    assert_eq!(made.groups[0].module, locator("samples/java@1.0.0"));
    assert_eq!(made.groups[1].module, locator("./bp"));
    let GroupModule::Inline { id, script, .. } = &made.groups[2].module else { panic!("inline") };
    assert_eq!((id.as_deref(), script.inline.as_str()), (Some("me/inline"), "echo hi"));
    assert_eq!(made.env_for("production"), [("A", "1")].into());
    assert!(made.metadata.contains_key("anything"));
    assert_eq!(
        made.label().unwrap().to_string(),
        r#"{"source":{"metadata":{"url":"https://example.org/shop"},"type":"project","version":{"declared":"1.2"}}}"#
    );
    assert_eq!(made.local_paths(), ["samples/java@1.0.0", "./bp"]);
}

#[test]
fn the_second_schema_has_lists_around() {
    let (made, warnings) = read(
        r#"
        [_]
        schema-version = "0.2"
        id = "shop"
        licenses = [{uri = "LICENSE"}]
        [_.metadata]
        x = 1
        [io.buildpacks]
        include = ["*.go"]
        [[io.buildpacks.group]]
        uri = "docker://a/b"
        [[io.buildpacks.pre.group]]
        id = "pre"
        [[io.buildpacks.post.group]]
        id = "post"
        uri = "file:///bp"
        [[io.buildpacks.build.env]]
        name = "A"
        value = "right"
        [[io.buildpacks.env.build]]
        name = "A"
        value = "wrong"
        [[io.buildpacks.env.build]]
        name = "B"
        value = "2"
        [io.elsewhere]
        y = 2
        "#,
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("[[io.buildpacks.env.build]]"));
    assert_eq!(made.include, ["*.go"]);
    assert_eq!(made.groups[0].module, locator("docker://a/b"));
    assert_eq!(made.pre[0].module, locator("pre"));
    assert_eq!(made.post[0].module, locator("file:///bp"));
    assert_eq!(made.env_for("test"), [("A", "right"), ("B", "2")].into());
    assert_eq!(made.local_paths(), ["pre", "/bp"]);
    assert_eq!(made.metadata["x"].as_integer(), Some(1));
    assert_eq!(made.label(), None);
}

#[test]
fn execution_environments_are_of_the_third_schema() {
    let text = |schema: &str| {
        format!(
            r#"
            [_]
            schema-version = "{schema}"
            [[io.buildpacks.group]]
            id = "a"
            exec-env = ["test"]
            [[io.buildpacks.build.env]]
            name = "A"
            value = "1"
            exec-env = ["test"]
            "#
        )
    };
    let (made, warnings) = read(&text("0.3"));
    assert!(warnings.is_empty());
    assert_eq!(made.groups[0].exec_env, ["test"]);
    assert!(made.env_for("production").is_empty() && made.env_for("test").len() == 1);
    let (made, warnings) = read(&text("0.2"));
    assert_eq!(
        warnings,
        ["project.toml: keys that schema 0.2 does not have are ignored: \
          io.buildpacks.group.exec-env, io.buildpacks.build.env.exec-env"]
    );
    assert_eq!(made.env_for("production").len(), 1);
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(is_for_exec_env(&[], "x") && is_for_exec_env(&list(&["*"]), "x"));
    assert!(!is_for_exec_env(&list(&["y"]), "x"));
}

#[test]
fn keys_of_another_schema_are_told() {
    let (made, warnings) = read("[project]\nnmae = \"x\"\n[[io.buildpacks.group]]\nid = \"a\"");
    assert!(made.groups.is_empty());
    assert!(warnings[1].contains("project.nmae, io.buildpacks.group"), "{warnings:?}");
    let (_, warnings) = read("[_]\nschema-version = \"0.2\"\n\"\\u001b[31m\" = 1");
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("\\u{1b}[31m") && !warnings[0].contains('\u{1b}'));
    let many = (0..100).map(|index| format!("k{index} = 1\n")).collect::<String>();
    let (_, warnings) = read(&format!("[build]\n{many}"));
    assert!(warnings[1].ends_with(" and others"), "{warnings:?}");
}

#[test]
fn rules_are_kept() {
    let group =
        |rest: &str| format!("[_]\nschema-version = \"0.2\"\n[[io.buildpacks.group]]\n{rest}");
    let v2 = |rest: &str| format!("[_]\nschema-version = \"0.2\"\n{rest}");
    for (text, message) in [
        (group(""), "io.buildpacks.group[0]: needs an id or a uri"),
        (group("id = \"a\"\nuri = \"b\"\nversion = \"1\""), "both a uri and a version"),
        (
            group("uri = \"b\"\nscript = {api = \"0.10\", inline = \"x\"}"),
            "both a uri and a script",
        ),
        (group("id = \"b\"\nscript = {inline = \"x\"}"), "script.api is missing"),
        (group("id = \"b\"\nscript = {api = \"0.99\", inline = \"x\"}"), "Buildpack API 0.99"),
        (group("id = \"b\"\nscript = {api = \"0.10\", shell = \"sh\"}"), "script.shell"),
        (group("id = 1"), "invalid type"),
        (v2("[io.buildpacks]\ninclude = []\nexclude = []"), "cannot be used together"),
        (v2("licenses = [{}]"), "_.licenses[0]: needs a type or a uri"),
        ("[_]\nschema-version = \"0.4\"".to_owned(), "\"0.4\" is not a schema"),
        ("[_]\nschema-version = \"\\u001b[2J\"".to_owned(), "is not a schema"),
        ("[_]\nschema-version = 0.2".to_owned(), "invalid type"),
        ("[[build.env]]\nvalue = \"x\"".to_owned(), "build.env[0].name: \"\": the name is empty"),
        ("[[build.env]]\nname = \"../x\"".to_owned(), "has a '/'"),
        ("[[build.env]]\nname = \"A\"\nvalue = \"\\u0000\"".to_owned(), "has a NUL"),
        ("[build]\ninclude = [1]".to_owned(), "invalid type"),
        ("[build]\n\u{1b}[31m".to_owned(), "line "),
        ("a = ".to_owned(), "line "),
    ] {
        let error = refused(&text);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn hostile_files_end_in_an_error() {
    let deep = format!("a = {}", "[".repeat(50_000));
    let wide = "[[build.buildpacks]]\nid = \"a\"\n".repeat(MAX_GROUP + 1);
    let large = "#".repeat(cofferdam_cnb::MAX_FILE + 1);
    for text in [deep, wide, large] {
        refused(&text);
    }
    assert!(ProjectDescriptor::parse("project.toml", &[0xff, 0xfe]).is_err());
    assert_eq!(read("").0, ProjectDescriptor::default());
}
