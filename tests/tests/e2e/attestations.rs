//! What is said about images: where it is found, and what it says.

use std::fs;

use cofferdam_tests::{Builder, Context, Registry, entries};
use serde_json::{Value, json};

/// What an attestation manifest says, one statement after the other.
fn statements(registry: &Registry, name: &str, manifest: &Value) -> Vec<Value> {
    let layers = manifest["layers"].as_array().unwrap();
    let blob = |layer: &Value| registry.blob(name, layer["digest"].as_str().unwrap());
    layers.iter().map(|layer| serde_json::from_slice(&blob(layer)).unwrap()).collect()
}

/// The index under a tag, and the attestation manifest about each of its images.
fn attested(registry: &Registry, name: &str, tag: &str) -> (Value, Vec<Value>) {
    let (_, index) = registry.manifest(name, tag).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let about = entries.iter().filter(|entry| entry["platform"]["os"] == "unknown");
    let manifests = about.map(|entry| {
        let digest = entry["digest"].as_str().unwrap();
        let image = &entry["annotations"]["vnd.docker.reference.digest"];
        assert!(entries.iter().any(|other| other["digest"] == *image));
        assert_eq!(entry["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
        registry.manifest(name, digest).unwrap().1
    });
    (index.clone(), manifests.collect())
}

#[test]
fn provenance_tells_what_an_image_was_made_of() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nARG A\nRUN --mount=type=secret,id=s echo $A > /made\nCOPY a /\n",
        ),
        ("a", "content"),
    ]);
    let build = |tag: &str, options: &str| {
        let build = builder.build(&context).args("--push --build-arg A=private -t");
        let build = build.arg(registry.reference(&format!("app:{tag}")));
        let _ = build.arg(format!("--provenance={options}")).run().success();
        let (index, manifests) = attested(&registry, "app", tag);
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(manifests.len(), 1);
        let mut all = statements(&registry, "app", &manifests[0]);
        assert_eq!(all.len(), 1);
        (manifests[0].clone(), all.remove(0))
    };

    let (manifest, statement) = build("max", "mode=max");
    assert_eq!(manifest["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(
        statement["subject"][0]["digest"]["sha256"],
        registry.pull("app", "max").manifest_digest[7..]
    );
    let definition = &statement["predicate"]["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    assert_eq!(request["args"]["build-arg:A"], "private");
    assert_eq!(request["secrets"], json!([{ "id": "s", "optional": true }]));
    assert_eq!(request["locals"], json!([{ "name": "context" }, { "name": "dockerfile" }]));
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    assert_eq!(dependencies.len(), 1);
    assert!(dependencies[0]["uri"].as_str().unwrap().contains("platform=linux%2F"));
    assert_eq!(dependencies[0]["digest"]["sha256"].as_str().unwrap().len(), 64);
    let steps = &definition["internalParameters"]["buildConfig"]["llbDefinition"];
    assert!(steps.as_array().unwrap().len() > 3);
    let run = &statement["predicate"]["runDetails"]["metadata"];
    assert_eq!(run["buildkit_metadata"]["source"]["infos"][0]["filename"], "Dockerfile");
    assert!(run["buildkit_metadata"]["layers"]["step0:0"][0].is_array());
    assert_eq!(
        run["buildkit_completeness"],
        json!({ "request": true, "resolvedDependencies": false })
    );

    let (_, statement) = build("min", "mode=min,version=v0.2,reproducible=true");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v0.2");
    assert!(!statement.to_string().contains("private"));
    let predicate = &statement["predicate"];
    assert!(predicate["buildConfig"].is_null());
    assert!(predicate["invocation"]["parameters"]["secrets"].is_null());
    assert_eq!(predicate["metadata"]["reproducible"], true);
    assert_eq!(predicate["metadata"]["completeness"]["parameters"], false);
}

#[test]
fn each_platform_has_its_own_provenance() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let context = Context::new(&[
        ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n"),
        ("a", ""),
    ]);
    let platforms = "--platform linux/amd64,linux/arm64 --provenance=mode=min";
    let push = builder.build(&context).args("--push -t").arg(registry.reference("two:1"));
    let _ = push.args(platforms).run().success();
    let (index, manifests) = attested(&registry, "two", "1");
    assert_eq!((index["manifests"].as_array().unwrap().len(), manifests.len()), (4, 2));

    let out = tempfile::tempdir().unwrap();
    let split = builder.build(&context).args(platforms).arg("-o").arg(out.path());
    let _ = split.run().success();
    for platform in ["linux_amd64", "linux_arm64"] {
        let text = fs::read(out.path().join(platform).join("provenance.json")).unwrap();
        let statement: Value = serde_json::from_slice(&text).unwrap();
        let name = statement["subject"][0]["name"].as_str().unwrap();
        assert!(platform.ends_with(name), "{statement}");
    }
    let flat = tempfile::tempdir().unwrap();
    let dest = format!("type=local,platform-split=false,dest={}", flat.path().display());
    let _ = builder.build(&context).args(platforms).arg("-o").arg(dest).run().success();
    for name in ["provenance.linux_amd64.json", "provenance.linux_arm64.json", "amd64", "arm64"] {
        assert!(flat.path().join(name).exists(), "{name}");
    }
}

#[test]
fn platforms_do_not_overwrite_each_other() {
    let builder = Builder::plain();
    let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY a /same\n"), ("a", "")]);
    let out = tempfile::tempdir().unwrap();
    let build = builder.build(&context).args("--platform linux/amd64,linux/arm64 -o");
    let dest = format!("type=local,platform-split=false,dest={}", out.path().display());
    let said = build.arg(dest).run().failure();
    assert!(said.contains("cannot overwrite same"), "{said}");
}

#[test]
fn a_scanner_lists_what_is_in_an_image() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let script = "set -e\n\
        for place in $BUILDKIT_SCAN_SOURCE $BUILDKIT_SCAN_SOURCE_EXTRAS/*; do\n\
        [ -e $place ] || continue\n\
        ! touch $place/x 2>/dev/null\n\
        echo '{\"predicateType\":\"https://spdx.dev/Document\",\"predicate\":{\"name\":\"'$BUILDKIT_SCAN_LABEL'\",\"spdxVersion\":\"SPDX-2.3\",\"files\":[{\"fileName\":\"/a\"}]}}' \
        > $BUILDKIT_SCAN_DESTINATION/$(basename $place).spdx.json\n\
        done\n";
    let scanner = Context::new(&[
        ("Dockerfile", "FROM @busybox\nCOPY scan /\nCMD [\"sh\", \"/scan\"]\n"),
        ("scan", script),
    ]);
    let name = registry.reference("scanner:1");
    let _ = builder.build(&scanner).args("--push -t").arg(&name).run().success();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM scratch AS first\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY a /b\nFROM scratch\nCOPY --from=first /b /a\n",
        ),
        ("a", "x"),
    ]);
    let push = builder.build(&context).args("--push -t").arg(registry.reference("app:1"));
    let _ = push.arg(format!("--sbom=generator={name},LABEL=seen")).run().success();
    let (_, manifests) = attested(&registry, "app", "1");
    let all = statements(&registry, "app", &manifests[0]);
    assert_eq!(all.len(), 2);
    for statement in &all {
        assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
        assert_eq!(statement["predicate"]["name"], "seen");
    }
    let image = registry.pull("app", "1");
    let layer = image.manifest["layers"][0]["digest"].as_str().unwrap();
    let comment = &all[0]["predicate"]["files"][0]["comment"];
    assert_eq!(comment, &format!("layerID: {layer}"), "the scan of the result comes first");
    assert!(all[1]["predicate"]["files"][0]["comment"].is_null());
}

#[test]
fn annotations_go_to_their_level() {
    let builder = Builder::plain();
    let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "")]);
    let out = tempfile::tempdir().unwrap();
    let archive = |flags: &str| {
        let file = out.path().join("oci.tar");
        let build = builder.build(&context).args(flags);
        let _ = build.arg("-o").arg(format!("type=oci,dest={}", file.display())).run().success();
        let files = entries(&fs::read(&file).unwrap());
        let read = |name: &str| -> Value { serde_json::from_slice(&files[name].content).unwrap() };
        let entry = read("index.json")["manifests"][0].clone();
        let root = entry["digest"].as_str().unwrap().replace(':', "/");
        (entry, read(&format!("blobs/{root}")))
    };
    let (entry, manifest) = archive("--annotation a=b --annotation manifest-descriptor:c=d");
    assert_eq!(manifest["annotations"], json!({ "a": "b" }));
    assert_eq!(entry["annotations"]["c"], "d");
    let (entry, index) = archive(
        "--platform linux/amd64,linux/arm64 --annotation index:a=b --annotation index-descriptor:c=d \
         --annotation manifest-descriptor[linux/arm64]:e=f",
    );
    assert_eq!(
        (&index["annotations"]["a"], &entry["annotations"]["c"]),
        (&json!("b"), &json!("d"))
    );
    assert!(index["manifests"][0]["annotations"].is_null());
    assert_eq!(index["manifests"][1]["annotations"], json!({ "e": "f" }));
    let lost = builder.build(&context).args("--annotation index:a=b -o type=oci,dest=/dev/null");
    assert!(lost.run().failure().contains("index annotations not supported"));
}
