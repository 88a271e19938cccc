//! Where a result goes: image, oci, docker, tar, local; and how its layers are compressed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cofferdam_tests::{Builder, Context, Image, Registry, entries};
use serde_json::Value;

fn context() -> Context {
    let context = Context::new(&[
        ("Dockerfile", "FROM @busybox\nCOPY --chmod=755 dir /d\nRUN ln -s a /d/link\nENV A=1\n"),
        ("dir/a", "content"),
    ]);
    context.mode("dir/a", 0o755);
    context
}

#[test]
fn a_pushed_image_can_be_pulled_and_built_on() {
    let builder = Builder::plain();
    let context = context();
    let registry = Registry::start();
    let name = registry.reference("app:1");
    let second = registry.reference("app:latest");
    let metadata = tempfile::NamedTempFile::new().unwrap();
    let _ = builder
        .build(&context)
        .arg("-t")
        .arg(&name)
        .arg("-t")
        .arg(&second)
        .args("--push --metadata-file")
        .arg(metadata.path())
        .run()
        .success();
    let image = registry.pull("app", "1");
    assert_eq!(image.text("d/a"), "content");
    assert_eq!(registry.pull("app", "latest").digest, image.digest);
    let metadata: Value = serde_json::from_slice(&fs::read(metadata.path()).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], image.digest.as_str());
    assert!(metadata["image.name"].as_str().unwrap().contains(&name));
    let child = builder.image(&format!("FROM {name}\nRUN cat /d/link > /read\n"));
    assert_eq!(child.text("read"), "content");
    assert!(child.env().contains(&"A=1"));
}

#[test]
fn pushing_again_uploads_nothing_that_is_there() {
    let builder = Builder::plain();
    let context = context();
    let registry = Registry::start();
    for tag in ["1", "2"] {
        let _ = builder
            .build(&context)
            .arg("-t")
            .arg(registry.reference(&format!("app:{tag}")))
            .arg("--push")
            .run()
            .success();
    }
    assert_eq!(
        registry.pull("app", "1").manifest["layers"],
        registry.pull("app", "2").manifest["layers"]
    );
}

#[test]
fn archives_and_directories_hold_the_same_files() {
    let builder = Builder::plain();
    let context = context();
    let image = builder.build(&context).image();
    let tar = builder.build(&context).tar();
    let (_, local) = builder.build(&context).local();
    let (mut from_image, mut from_tar) = (image.files(), tar);
    for files in [&mut from_image, &mut from_tar] {
        // Which of several names of a file is the link depends on the order of writing.
        files.retain(|path, _| !path.starts_with("bin/"));
    }
    assert_eq!(from_image.keys().collect::<Vec<_>>(), from_tar.keys().collect::<Vec<_>>());
    assert_eq!(from_image["d/a"], from_tar["d/a"]);
    assert_eq!(fs::read_to_string(local.path().join("d/a")).unwrap(), "content");
    assert_eq!(fs::metadata(local.path().join("d/a")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read_link(local.path().join("d/link")).unwrap().to_str(), Some("a"));
    assert!(local.path().join("bin/busybox").exists());
    // A directory alone means the same.
    let out = tempfile::tempdir().unwrap();
    let _ = builder.build(&context).arg("-o").arg(out.path()).run().success();
    assert!(out.path().join("d/a").exists());
}

#[test]
fn a_docker_archive_is_what_docker_loads() {
    let builder = Builder::plain();
    let context = context();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("docker.tar");
    let _ = builder
        .build(&context)
        .args("-t demo/app:7 -o")
        .arg(format!("type=docker,dest={}", file.display()))
        .run()
        .success();
    let files = entries(&fs::read(&file).unwrap());
    let manifest: Value = serde_json::from_slice(&files["manifest.json"].content).unwrap();
    assert_eq!(manifest[0]["RepoTags"][0], "demo/app:7");
    let config = manifest[0]["Config"].as_str().unwrap();
    let config: Value = serde_json::from_slice(&files[config].content).unwrap();
    let layers = manifest[0]["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), config["rootfs"]["diff_ids"].as_array().unwrap().len());
    for layer in layers {
        assert!(files.contains_key(layer.as_str().unwrap()), "{layer}");
    }
    assert!(config["config"]["Env"].as_array().unwrap().iter().any(|variable| variable == "A=1"));
}

#[test]
fn layers_are_compressed_as_asked() {
    let builder = Builder::plain();
    let context = context();
    let top = |image: &Image| image.layers.last().unwrap().clone();
    let (_, gzip) = builder.build(&context).image_with("");
    let (_, zstd) = builder.build(&context).image_with(",compression=zstd");
    let (_, plain) = builder.build(&context).image_with(",compression=uncompressed");
    assert!(
        top(&gzip).media_type.ends_with("+gzip") && top(&gzip).bytes.starts_with(&[0x1f, 0x8b])
    );
    assert!(
        top(&zstd).media_type.ends_with("+zstd")
            && top(&zstd).bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
    );
    assert!(top(&plain).media_type.ends_with(".tar"));
    assert_eq!(gzip.layers[0].bytes, zstd.layers[0].bytes, "pulled layers stay as they are");
    assert_eq!(gzip.config["rootfs"], zstd.config["rootfs"]);
    let (_, forced) =
        builder.build(&context).image_with(",compression=zstd,force-compression=true");
    assert!(forced.layers.iter().all(|layer| layer.bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])));
    let registry = Registry::start();
    let output =
        format!("type=image,push=true,compression=zstd,name={}", registry.reference("z:1"));
    let _ = builder.build(&context).arg("-o").arg(output).run().success();
    assert!(top(&registry.pull("z", "1")).media_type.ends_with("+zstd"));
}

#[test]
fn a_layout_gathers_images_and_can_be_built_on() {
    let builder = Builder::plain();
    let out = tempfile::tempdir().unwrap();
    let layout = out.path().join("layout");
    for (name, text) in [("app:1", "one"), ("app:2", "two")] {
        let context =
            Context::new(&[("Dockerfile", "FROM @busybox\nCOPY note /note\n"), ("note", text)]);
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        let _ = builder.build(&context).args("-t").arg(name).arg("-o").arg(output).run().success();
    }
    let index: Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let tags: Vec<&Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["annotations"]["org.opencontainers.image.ref.name"])
        .collect();
    assert_eq!(tags, ["1", "2"]);
    // Either can be built on, by another builder too.
    let other = Builder::plain();
    for (tag, text) in [("1", "one"), ("2", "two")] {
        let context = Context::dockerfile("FROM base\nRUN cat /note > /read\n");
        let image = other
            .build(&context)
            .arg("--build-context")
            .arg(format!("base=oci-layout://{}:{tag}", layout.display()))
            .image();
        assert_eq!(image.text("read"), text);
    }
    let two = format!("type=docker,tar=false,dest={}", out.path().join("b").display());
    let said = builder
        .build(&Context::dockerfile("FROM @busybox\n"))
        .arg("-o")
        .arg(format!("type=oci,tar=false,dest={}", layout.display()))
        .arg("-o")
        .arg(two)
        .run()
        .failure();
    assert!(said.contains("only one output can have tar=false"), "{said}");
}

#[test]
fn an_estargz_is_a_layer_like_any_other() {
    const TABLE: &str = "containerd.io/snapshot/stargz/toc.digest";
    let builder = Builder::plain();
    let context = context();
    let registry = Registry::start();
    let name = registry.reference("lazy:1");
    let output =
        format!("type=image,push=true,compression=estargz,oci-mediatypes=false,name={name}");
    let _ = builder.build(&context).arg("-o").arg(output).run().success();
    let image = registry.pull("lazy", "1");
    let layers = image.manifest["layers"].as_array().unwrap();
    // Layers that were pulled stay as they are; what was made here has a table.
    assert!(layers[0]["annotations"].get(TABLE).is_none(), "{layers:?}");
    let top = layers.last().unwrap();
    assert!(top["annotations"][TABLE].as_str().unwrap().starts_with("sha256:"), "{top}");
    assert_eq!(top["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(image.text("d/a"), "content");

    // Who has never seen it pulls it and builds on it, and its table is no file of the image.
    let other = Builder::plain();
    let child = other.image(&format!("FROM {name}\nRUN cat /d/link > /read && ls / > /names\n"));
    assert_eq!(child.text("read"), "content");
    assert!(!child.text("names").contains("stargz"), "{}", child.text("names"));

    // The same layers are packed once more for who asked for gzip.
    let (_, gzip) = builder.build(&context).image_with(",compression=gzip");
    let top = gzip.manifest["layers"].as_array().unwrap().last().unwrap().clone();
    assert!(top.get("annotations").is_none_or(|told| told.get(TABLE).is_none()), "{top}");
}

#[test]
fn several_outputs_of_one_build_agree() {
    let builder = Builder::plain();
    let context = context();
    let registry = Registry::start();
    let out = tempfile::tempdir().unwrap();
    let name = registry.reference("app:1");
    let oci = out.path().join("oci.tar");
    let _ = builder
        .build(&context)
        .arg("-o")
        .arg(format!("type=oci,dest={}", oci.display()))
        .arg("-o")
        .arg(format!("type=image,push=true,name={name}"))
        .arg("-o")
        .arg(format!("type=local,dest={}", out.path().join("files").display()))
        .run()
        .success();
    assert_eq!(
        Image::from_oci_archive(&oci).manifest_digest,
        registry.pull("app", "1").manifest_digest
    );
    assert!(out.path().join("files/d/a").exists());
}
