//! smoke
use cofferdam_tests::{Builder, Context};

#[test]
fn smoke() {
    let builder = Builder::plain();
    let context = Context::new(&[("Dockerfile", "FROM @busybox\nRUN echo hello > /out\nCOPY a /b\n"), ("a", "content")]);
    let image = builder.build(&context).image();
    assert_eq!(image.text("out"), "hello\n");
    assert_eq!(image.text("b"), "content");
}
