//! A disk that does not give what it has, or gives something else.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cofferdam_tests::strace::{Faults, store_of};
use cofferdam_tests::{Builder, Context, Image, Outcome, Registry, digest, images, need_root};

use crate::shared::{attempt, context, eventually, fixed, intact, one_error, same, tidy};

/// Every way to read a file.
const READS: &str = "read,readv,pread64,preadv,preadv2,copy_file_range,sendfile";

/// The digests of an image's layers.
fn layers(image: &Image) -> Vec<&str> {
    let layers = image.manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap()).collect()
}

/// The name of the packed layer on top of an image, in the part of the store where it is once it is on disk.
fn packed(builder: &Builder, image: &Image) -> String {
    let name = layers(image).last().unwrap().trim_start_matches("sha256:").to_owned();
    let path = file(builder, &name);
    eventually("a blob on disk", || path.exists());
    name
}

fn file(builder: &Builder, name: &str) -> PathBuf {
    builder.root().join("store/content").join(name)
}

/// Changes one bit of a file.
fn spoil(path: &Path) {
    let blob = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let middle = blob.metadata().unwrap().len() / 2;
    let mut byte = [0];
    blob.read_exact_at(&mut byte, middle).unwrap();
    blob.write_all_at(&[byte[0] ^ 0x20], middle).unwrap();
}

/// Pushes the image of a context to a registry, as `read:1`.
fn push(builder: &Builder, context: &Context, registry: &Registry) -> Outcome {
    let name = registry.reference("read:1");
    let output = format!("type=image,name={name},push=true,rewrite-timestamp=true");
    fixed(builder, context).arg("--output").arg(output).run()
}

#[test]
fn a_blob_that_cannot_be_read_is_named_and_in_the_next_image() {
    need_root();
    let builder = Builder::plain();
    let context = context(400);
    let image = attempt(&builder, &context, "").unwrap();
    let name = packed(&builder, &image);
    let (pid, store) = store_of(builder.pid());
    let path = store.join("content").join(&name);
    let faults = Faults::inject(pid, READS, "EIO", "1+", &[path]);
    let result = attempt(&builder, &context, "");
    assert!(faults.stop() > 0, "control: nothing was read");
    match result {
        Ok(other) => assert_eq!(other.digest, image.digest),
        Err(stderr) => one_error(&stderr, &["input/output error"]),
    }
    same(&builder, &context, "", &image.digest);
    tidy(&builder);
    drop(intact(builder));
}

#[test]
fn a_blob_that_cannot_be_read_is_not_pushed() {
    need_root();
    let builder = Builder::plain();
    let registry = Registry::start();
    let context = context(410);
    let image = attempt(&builder, &context, "").unwrap();
    let name = packed(&builder, &image);
    let (pid, store) = store_of(builder.pid());
    let path = store.join("content").join(&name);
    let faults = Faults::inject(pid, READS, "EIO", "1+", &[path]);
    let outcome = push(&builder, &context, &registry);
    assert!(faults.stop() > 0, "control: nothing was read");
    one_error(&outcome.failure(), &["input/output error"]);
    assert!(registry.manifest("read", "1").is_none(), "a name without its layers");
    let _ = push(&builder, &context, &registry).success();
    assert_eq!(layers(&registry.pull("read", "1")), layers(&image));
    drop(intact(builder));
}

#[test]
fn a_blob_with_other_bytes_is_in_no_image() {
    need_root();
    let builder = Builder::plain();
    let context = context(420);
    let image = attempt(&builder, &context, "").unwrap();
    spoil(&file(&builder, &packed(&builder, &image)));
    // An archive that is read back is compared with its digests.
    match attempt(&builder, &context, "") {
        Ok(other) => assert_eq!(other.digest, image.digest),
        Err(stderr) => one_error(&stderr, &["than its name says", "digest"]),
    }
    // Found once, it is packed anew.
    same(&builder, &context, "", &image.digest);
    tidy(&builder);
    drop(intact(builder));
}

#[test]
fn a_blob_with_other_bytes_is_not_pushed() {
    need_root();
    let builder = Builder::plain();
    let registry = Registry::start();
    let context = context(430);
    let image = attempt(&builder, &context, "").unwrap();
    spoil(&file(&builder, &packed(&builder, &image)));
    let refused = push(&builder, &context, &registry).failure();
    assert!(refused.contains("pushing layers"), "{refused}");
    assert!(registry.manifest("read", "1").is_none(), "a name without its layers");
    // Found once, it is packed anew.
    let _ = push(&builder, &context, &registry).success();
    assert_eq!(layers(&registry.pull("read", "1")), layers(&image));
    drop(intact(builder));
}

#[test]
fn a_base_whose_blob_rotted_is_fetched_again() {
    need_root();
    let builder = Builder::plain();
    let registry = Registry::start();
    let (layer, config) = images::parts("busybox");
    let _ = registry.push_image("base", "1", std::slice::from_ref(&layer), &config);
    let base = format!("FROM {}\n", registry.reference("base:1"));
    // An archive needs the packed layer, and nothing in it.
    let _ = builder.image(&format!("{base}LABEL a=b\n"));
    let name = digest(&layer.bytes).trim_start_matches("sha256:").to_owned();
    let path = file(&builder, &name);
    eventually("a blob on disk", || path.exists());
    spoil(&path);
    let reading = Context::dockerfile(&format!("{base}RUN echo x > /x\n"));
    let (outcome, image) = builder.build(&reading).image_with("");
    assert!(outcome.stderr.contains("extracting"), "control: {}", outcome.stderr);
    assert_eq!(image.text("x"), "x\n");
    drop(intact(builder));
}
