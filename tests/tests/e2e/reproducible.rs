//! The same input gives the same bytes.

use cofferdam_tests::{Builder, Context};

const EPOCH: u64 = 1_700_000_000;

fn context() -> Context {
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nRUN mkdir /many && for i in $(seq 50); do echo $i > /many/$i; done && ln /many/1 /many/hard && mkfifo /many/pipe\n\
             RUN rm /many/7 && touch /new\nCOPY dir /dir\nWORKDIR /made\nENV A=1 B=2 C=3\nLABEL x=1 y=2 z=3\n",
        ),
        ("dir/a", "a"),
        ("dir/sub/b", "b"),
    ]);
    context.link("dir/l", "a");
    context
}

fn build(builder: &Builder) -> cofferdam_tests::Image {
    let context = context();
    let build =
        builder.build(&context).args("--no-cache").env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    build.image_with(",rewrite-timestamp=true").1
}

#[test]
fn two_builders_make_the_same_image_when_times_are_fixed() {
    let first = build(&Builder::plain());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let builder = Builder::plain();
    let second = build(&builder);
    assert_eq!(first.config, second.config);
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(first.digest, second.digest);
    assert_eq!(build(&builder).digest, second.digest, "without the cache, in the same builder");
    let late: Vec<String> = first
        .files()
        .into_iter()
        .filter(|(_, entry)| entry.mtime > EPOCH)
        .map(|(path, _)| path)
        .collect();
    assert!(late.is_empty(), "{late:?}");
    assert_eq!(first.config["created"], "2023-11-14T22:13:20Z");
}

#[test]
fn without_it_times_are_the_present() {
    let builder = Builder::plain();
    let context = context();
    let image = builder.build(&context).image();
    assert!(image.files()["new"].mtime > EPOCH, "control");
}
