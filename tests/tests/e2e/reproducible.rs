//! The same input gives the same bytes.

use cofferdam_tests::{Builder, Context, Options};

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

/// Some megabytes that do not compress well, so that the layer is one to remember.
fn large() -> Context {
    let context = Context::new(&[("Dockerfile", "FROM @busybox\nCOPY dir /dir\n")]);
    let mut state = 1_u64;
    let mut noise = |bytes: usize| -> Vec<u8> {
        let next = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        next.take(bytes).collect()
    };
    for number in 0..400 {
        context.write(&format!("dir/sub/f{number}"), noise(10_000));
    }
    context.write("dir/big", noise(3 << 20));
    context
}

#[test]
fn a_layer_does_not_show_that_parts_of_it_were_packed_before() {
    const TAKEN_OVER: &str = "took over blocks";
    let context = large();
    let top = |builder: &Builder| {
        let build = builder.build(&context).env("SOURCE_DATE_EPOCH", EPOCH.to_string());
        let (_, mut image) = build.image_with(",rewrite-timestamp=true");
        image.layers.pop().unwrap().bytes
    };
    let builder = Builder::plain();
    let first = top(&builder);
    assert!(first.len() > 2 << 20 && !builder.log().contains(TAKEN_OVER), "control");
    context.write("dir/sub/f77", "changed");
    let second = top(&builder);
    assert!(second != first, "control");
    assert_eq!(builder.log().matches(TAKEN_OVER).count(), 1);
    context.write("dir/sub/f78", "changed");
    let builder = Builder::start_in(builder.stop(), &Options::default());
    let third = top(&builder);
    assert_eq!(builder.log().matches(TAKEN_OVER).count(), 2, "also after a restart");
    // A builder that knows nothing makes the same bytes.
    let fresh = Builder::plain();
    assert!(top(&fresh) == third);
    assert!(!fresh.log().contains(TAKEN_OVER), "control");
}
