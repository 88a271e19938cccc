#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use cofferdam_cnb::{Descriptor, Kind, Require};

use super::*;

fn descriptor(id: &str, api: &str) -> Arc<Descriptor> {
    let formats = "[\"application/vnd.cyclonedx+json;version=1.4\", \"application/spdx+json\"]";
    let text = format!(
        "api = \"{api}\"\n[buildpack]\nid = \"{id}\"\nversion = \"1\"\nhomepage = \"h\"\nsbom-formats = {formats}\n"
    );
    Arc::new(Descriptor::parse(Kind::Buildpack, "buildpack.toml", text.as_bytes()).unwrap())
}

fn given(names: &[&str]) -> PlanFile {
    let entry = |name: &&str| Require { name: (*name).to_owned(), ..Require::default() };
    PlanFile { entries: names.iter().map(entry).collect() }
}

fn layer(toml: &str, exists: bool) -> LayerOutput {
    LayerOutput { toml: Some(toml.as_bytes().to_vec()), exists, ..LayerOutput::default() }
}

fn launch(id: &str, api: &str, text: &str) -> Result<BuiltModule, BuildError> {
    let output = BuildOutput { launch: Some(text.as_bytes().to_vec()), ..BuildOutput::default() };
    read_build(&descriptor(id, api), &output, &given(&[]))
}

#[test]
fn plans_are_what_a_module_provides_and_nobody_met() {
    let (a, b) = (descriptor("a", "0.12").module(), descriptor("b", "0.12").module());
    let entry = |name: &str, providers: &[&ModuleRef]| PlanEntry {
        name: name.to_owned(),
        providers: providers.iter().map(|module| (*module).clone()).collect(),
        requires: given(&[name, name]).entries,
    };
    let plan = [entry("x", &[&a]), entry("y", &[&a, &b]), entry("z", &[&b])];
    let names = |plan: PlanFile| plan.entries.into_iter().map(|e| e.name).collect::<Vec<_>>();
    assert_eq!(names(plan_for(&plan, &a, &[])), ["x", "x", "y", "y"]);
    assert_eq!(names(plan_for(&plan, &b, &["y".to_owned()])), ["z", "z"]);
    let extension = ModuleRef { kind: Kind::Extension, ..a };
    assert!(plan_for(&plan, &extension, &[]).entries.is_empty());
}

#[test]
fn layers_have_types_or_are_ignored() {
    let mut output = BuildOutput::default();
    output.layers.insert("jre".into(), layer("[types]\nlaunch = true\n[metadata]\nv = 1\n", true));
    output.layers.insert("old".into(), layer("[metadata]\nv = 1\n", true));
    output.layers.insert("stray".into(), LayerOutput { exists: true, ..LayerOutput::default() });
    output.layers.insert("launch".into(), LayerOutput { exists: true, ..LayerOutput::default() });
    let built = read_build(&descriptor("a", "0.12"), &output, &given(&[])).unwrap();
    let names: Vec<&str> = built.layers.keys().map(String::as_str).collect();
    assert_eq!(names, ["jre", "old"], "a directory without a file is no layer");
    assert!(built.layers["jre"].types.launch && !built.layers["jre"].is_ignored());
    assert_eq!(built.layers["jre"].metadata["v"].as_integer(), Some(1));
    assert!(built.layers["old"].is_ignored());
}

#[test]
fn hostile_layers_are_errors() {
    for (name, toml, part) in [
        ("a", "launch = true", "a.toml: launch:"),
        ("a", "[types]\nlaunch = 1", "a.toml:"),
        ("a", "[types", "a.toml:"),
        ("..", "", "is no name of a layer"),
        ("a/b", "", "is no name of a layer"),
        ("a\u{1b}[2J", "", "is no name of a layer"),
        ("store", "", "reserved"),
    ] {
        let mut output = BuildOutput::default();
        output.layers.insert(name.to_owned(), layer(toml, true));
        let error = read_build(&descriptor("a/b", "0.12"), &output, &given(&[])).unwrap_err();
        assert_eq!(error.exit_code(), 52);
        let text = error.to_string();
        assert!(text.starts_with("a/b@1: ") && text.contains(part), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    let mut output = BuildOutput::default();
    output.layers.extend((0..1001).map(|n| (format!("l{n}"), layer("", false))));
    assert!(read_build(&descriptor("a", "0.12"), &output, &given(&[])).is_err());
}

#[test]
fn met_is_the_plan_without_what_is_unmet() {
    let read = |build: Option<&str>| {
        let build = build.map(|text| text.as_bytes().to_vec());
        let output = BuildOutput { build, ..BuildOutput::default() };
        read_build(&descriptor("a", "0.12"), &output, &given(&["x", "y", "x"]))
    };
    assert_eq!(read(None).unwrap().met, ["x", "y"]);
    assert_eq!(read(Some("[[unmet]]\nname = \"x\"\n")).unwrap().met, ["y"]);
    for wrong in
        ["[[unmet]]\nname = \"z\"\n", "[[unmet]]\nname = \"\"\n", "unmet = 1", "[[unmet]]\n"]
    {
        let error = read(Some(wrong)).unwrap_err().to_string();
        assert!(error.contains("build.toml"), "{error}");
    }
}

#[test]
fn store_is_kept() {
    let output =
        BuildOutput { store: Some(b"[metadata]\nx = [1]\n".to_vec()), ..BuildOutput::default() };
    let built = read_build(&descriptor("a", "0.12"), &output, &given(&[])).unwrap();
    assert_eq!(built.store.unwrap()["x"].as_array().unwrap().len(), 1);
    let output = BuildOutput { store: Some(b"metadata = 1".to_vec()), ..BuildOutput::default() };
    assert!(read_build(&descriptor("a", "0.12"), &output, &given(&[])).is_err());
}

#[test]
fn processes_of_old_apis_are_normalised() {
    let new = "[[processes]]\ntype = \"web\"\ncommand = [\"srv\", \"-x\"]\nargs = [\"a\"]\ndefault = true\n";
    let web = launch("a", "0.9", new).unwrap().processes.remove(0);
    assert_eq!((web.command.len(), web.direct, web.default), (2, Some(true), true));
    assert_eq!(web.buildpack_id, "a");
    let old = "[[processes]]\ntype = \"web\"\ncommand = \"srv -x\"\nworking-dir = \"/w\"\n";
    let web = launch("a", "0.8", old).unwrap().processes.remove(0);
    assert_eq!(
        (web.command, web.direct, web.working_dir.as_str()),
        (vec!["srv -x".into()], Some(false), "/w")
    );
    let seven = launch("a", "0.7", old).unwrap();
    assert!(seven.processes[0].working_dir.is_empty() && !seven.warnings.is_empty());
    let direct = format!("{old}direct = true\n");
    assert_eq!(launch("a", "0.8", &direct).unwrap().processes[0].direct, Some(true));
    let both = new.replace("web", "b") + new;
    for (api, wrong) in [
        ("0.9", direct.as_str()),
        ("0.9", old),
        ("0.12", &both),
        ("0.12", "[[processes]]\ntype = \"a/b\"\ncommand = [\"x\"]\n"),
    ] {
        let error = launch("a", api, wrong).unwrap_err().to_string();
        assert!(error.starts_with("a@1: launch.toml: "), "{error}");
    }
}

#[test]
fn sboms_have_places() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut output = BuildOutput::default();
    output.layers.insert("jre".into(), layer("[types]\nlaunch = true\ncache = true\n", true));
    output.layers.insert("jdk".into(), layer("[types]\nbuild = true\n", true));
    output.layers.insert("a.b".into(), layer("[types]\ncache = true\n", true));
    output.sboms = names(&[
        "launch.sbom.cdx.json",
        "build.sbom.spdx.json",
        "jre.sbom.cdx.json",
        "jdk.sbom.cdx.json",
        "a.b.sbom.cdx.json",
        "gone.sbom.cdx.json",
        "notes.json",
    ]);
    let built = read_build(&descriptor("x/y", "0.12"), &output, &given(&[])).unwrap();
    let places: Vec<&str> = built.sboms.iter().map(|sbom| sbom.to.as_str()).collect();
    let expected = [
        "launch/x_y/sbom.cdx.json",
        "build/x_y/sbom.spdx.json",
        "launch/x_y/jre/sbom.cdx.json",
        "cache/x_y/jre/sbom.cdx.json",
        "build/x_y/jdk/sbom.cdx.json",
        "build/x_y/a.b/sbom.cdx.json",
        "cache/x_y/a.b/sbom.cdx.json",
    ];
    assert_eq!(places, expected);
    assert_eq!(built.warnings.len(), 1, "{:?}", built.warnings);
    output.sboms = names(&["../../etc.sbom.cdx.json", "a/b.sbom.cdx.json"]);
    let built = read_build(&descriptor("x/y", "0.12"), &output, &given(&[])).unwrap();
    assert!(built.sboms.is_empty(), "only layers that exist have a place");
    output.sboms = names(&["jre.sbom.syft.json"]);
    let error = read_build(&descriptor("x/y", "0.12"), &output, &given(&[])).unwrap_err();
    assert!(error.to_string().contains("jre.sbom.syft.json"), "{error}");
}

#[test]
fn later_processes_win() {
    let process = |kind: &str, command: &str, default: bool| {
        format!(
            "[[processes]]\ntype = \"{kind}\"\ncommand = [\"{command}\", \"-x\"]\nargs = [\"y\"]\ndefault = {default}\n"
        )
    };
    let group = [descriptor("a", "0.12"), descriptor("b", "0.12")];
    let of = |a: &str, b: &str| {
        let modules = [launch("a", "0.12", a).unwrap(), launch("b", "0.12", b).unwrap()];
        assemble(&modules, &group, &[], ApiVersion::minor(15))
    };
    let a = process("web", "a-web", true) + &process("job", "a-job", false);
    let (metadata, warnings) = of(&a, &process("app", "b-app", false));
    let kinds: Vec<&str> = metadata.processes.iter().map(|process| process.kind.as_str()).collect();
    assert_eq!((kinds, metadata.default_process.as_str()), (vec!["app", "job", "web"], "web"));
    assert!(warnings.is_empty() && metadata.processes.iter().all(|process| !process.default));
    let (metadata, _) = of(&a, &process("app", "b-app", true));
    assert_eq!(metadata.default_process, "app", "the last default wins");
    let (metadata, warnings) = of(&a, &process("web", "b-web", false));
    assert_eq!((metadata.default_process.as_str(), warnings.len()), ("", 1));
    assert_eq!(metadata.processes[1].command[0], "b-web");
    assert_eq!(metadata.processes[1].buildpack_id, "b");
    let modules = [launch("a", "0.12", &a).unwrap()];
    let (metadata, _) = assemble(&modules, &group[..1], &group[1..], ApiVersion::minor(9));
    assert_eq!(metadata.processes[1].command, ["a-web"]);
    assert_eq!(metadata.processes[1].args, ["-x", "y"], "one word before 0.10");
    assert_eq!(
        (metadata.buildpacks[0].id.as_str(), metadata.buildpacks[0].api.as_str()),
        ("a", "0.12")
    );
    assert_eq!(metadata.extensions[0].homepage, "h");
}

#[test]
fn labels_and_slices_are_in_group_order() {
    let text = |n: u32| {
        format!("[[labels]]\nkey = \"k\"\nvalue = \"{n}\"\n[[slices]]\npaths = [\"{n}\"]\n")
    };
    let modules = [launch("a", "0.12", &text(1)).unwrap(), launch("b", "0.12", &text(2)).unwrap()];
    let (metadata, _) = assemble(&modules, &[], &[], ApiVersion::minor(15));
    let values: Vec<&str> = metadata.labels.iter().map(|label| label.value.as_str()).collect();
    assert_eq!(values, ["1", "2"]);
    assert_eq!(metadata.slices[1].paths, ["2"]);
}
