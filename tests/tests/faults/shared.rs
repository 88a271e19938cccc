//! What the tests of all faults need: a build whose image is the same whenever it is made, its error, and a look at the store.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_store::{Store, Trouble};
use cofferdam_tests::{Build, Builder, Context, Home, Image};

/// The time of everything in the images.
/// Before any clock that a test sets: what is older than it stays as it is.
const EPOCH: &str = "1500000000";

/// What is said of a full disk: by the kernel, and by a builder that ended a step for it.
pub(crate) const FULL: &[&str] = &["no space left", "left on the builder's disk"];

/// Bytes that nothing makes smaller, the same ones for each `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    next.take(length).collect()
}

/// A context of each kind of write: files of the client, files of a step, many of them.
pub(crate) fn context(seed: u64) -> Context {
    let context = Context::new(&[(
        "Dockerfile",
        "FROM @busybox\nCOPY data /data\nRUN cat /data/large /data/large > /twice\n\
         RUN mkdir /many && for i in $(seq 60); do echo $i > /many/$i; done\n",
    )]);
    context.write("data/large", noise(seed, 1 << 20));
    for number in 0..20 {
        context.write(&format!("data/small/{number}"), noise(seed + number, 100));
    }
    context
}

/// The build, with fixed times.
pub(crate) fn fixed(builder: &Builder, context: &Context) -> Build {
    builder.build(context).env("SOURCE_DATE_EPOCH", EPOCH)
}

/// Builds with these arguments, as an archive; what was said, when the build fails.
pub(crate) fn attempt(builder: &Builder, context: &Context, args: &str) -> Result<Image, String> {
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("image.tar");
    let output = format!("type=oci,dest={},rewrite-timestamp=true", file.display());
    let outcome = fixed(builder, context).args(args).arg("--output").arg(output).run();
    match outcome.code {
        Some(0) => Ok(Image::from_oci_archive(&file)),
        _ => Err(outcome.failure()),
    }
}

/// Builds and expects the image with this digest.
pub(crate) fn same(builder: &Builder, context: &Context, args: &str, wanted: &str) {
    let image = attempt(builder, context, args);
    let image = image.unwrap_or_else(|error| panic!("the build failed:\n{error}"));
    assert_eq!(image.digest, wanted, "another image than without a fault");
}

/// The digest of the image where nothing goes wrong.
pub(crate) fn undisturbed(context: &Context) -> String {
    attempt(&Builder::plain(), context, "").unwrap().digest
}

/// Expects one line about the failure, the last one, and one of these words (in lower case) in what was said.
pub(crate) fn one_error(stderr: &str, words: &[&str]) {
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("cofferdam: ")).collect();
    assert_eq!(errors.len(), 1, "one error line:\n{stderr}");
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    assert_eq!(last, errors.first().copied(), "the error comes last:\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let text = stderr.to_lowercase();
    assert!(words.iter().any(|word| text.contains(word)), "none of {words:?} in:\n{stderr}");
    for word in words {
        let told = errors[0].to_lowercase().matches(word).count();
        assert!(told <= 1, "{word:?} is said {told} times: {}", errors[0]);
    }
}

/// Waits, for at most a minute, until something holds.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Names in a part of a builder's store.
fn names(builder: &Builder, part: &str) -> Vec<String> {
    let entries = fs::read_dir(builder.root().join("store").join(part)).unwrap();
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until a builder without builds has nothing half-finished left. Parts of downloads are kept: the next one goes on there.
pub(crate) fn tidy(builder: &Builder) {
    for part in ["active", "ingest", "trash"] {
        let temporary = |name: &String| part != "ingest" || name.starts_with("tmp-");
        eventually(&format!("an end of what lies in {part}"), || {
            !names(builder, part).iter().any(temporary)
        });
    }
}

/// Ends a builder in good order and compares its store with its records.
pub(crate) fn intact(builder: Builder) -> Arc<Home> {
    let home = builder.stop();
    let store = Store::open(&home.root().join("store"), cofferdam_store::Options::default());
    let store = store.unwrap();
    assert!(!store.was_damaged(), "the records were damaged");
    assert_eq!(store.verify(false).unwrap(), [] as [Trouble; 0]);
    drop(store);
    home
}
