//! Base images: how they are found, pulled and kept.

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Builder, Context, Options, Registry, images};

#[test]
fn an_image_is_pulled_once_and_by_digest_when_asked() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let (layer, config) = images::parts("busybox");
    let digest = registry.push_image("base", "1", &[layer], &config);
    let by_digest = format!("FROM {}@{digest}\nRUN echo a > /a\n", registry.reference("base"));
    assert_eq!(builder.image(&by_digest).text("a"), "a\n");
    let outcome = builder
        .build(&Context::dockerfile(&format!(
            "FROM {}\nRUN echo a > /a\n",
            registry.reference("base:1")
        )))
        .run()
        .success();
    assert!(
        outcome.ran().is_empty() && !outcome.stderr.contains("extracting"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    let mirror = Registry::start();
    let (layer, config) = images::parts("busybox");
    mirror.push_image("library/thing", "1", &[layer], &config);
    let broken = Server::start(|_| Response::status(503));
    let options = Options {
        config: format!(
            "[registry.\"upstream.invalid\"]\nmirrors = [\"{}\"]\nhttp = true\n[registry.\"{}\"]\nmirrors = [\"{}\"]\n",
            mirror.address(),
            mirror.address(),
            broken.address(),
        ),
        ..Options::default()
    };
    let builder = Builder::start(&options);
    let image = builder.image("FROM upstream.invalid/library/thing:1\nRUN echo m > /m\n");
    assert_eq!(image.text("m"), "m\n");
    let image =
        builder.image(&format!("FROM {}\nRUN echo n > /n\n", mirror.reference("library/thing:1")));
    assert_eq!(image.text("n"), "n\n");
    assert!(!broken.seen().is_empty(), "control: the broken mirror was asked");
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let registry = Registry::start();
    let (layer, config) = images::parts("busybox");
    registry.push_image("base", "1", std::slice::from_ref(&layer), &config);
    let upstream = format!("http://{}", registry.address());
    let blob = cofferdam_tests::digest(&layer.bytes);
    let half = layer.bytes.len() / 2;
    let interruptions = std::sync::atomic::AtomicUsize::new(0);
    // Passes everything on, but the first answer with the layer breaks off in the middle.
    let proxy = Server::start(move |request| {
        let wanted: Vec<(&str, &str)> = ["accept", "range"]
            .iter()
            .filter_map(|name| Some((*name, request.header(name)?)))
            .collect();
        let got = cofferdam_tests::http::request(
            &request.method,
            &format!("{upstream}{}", request.path),
            &wanted,
            b"",
        );
        let is_blob = request.method == "GET" && request.path.ends_with(&blob);
        let mut response = Response::status(got.status);
        for name in ["content-type", "docker-content-digest", "content-range", "accept-ranges"] {
            if let Some(value) = got.header(name) {
                response = response.with(name, value);
            }
        }
        response = response.with("content-length", got.header("content-length").unwrap_or("0"));
        response.body = got.body;
        if is_blob && interruptions.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0 {
            response.body.truncate(half);
        }
        response
    });
    let builder = Builder::plain();
    let image = builder.image(&format!("FROM {}/base:1\nRUN echo x > /x\n", proxy.address()));
    assert_eq!(image.text("x"), "x\n");
    let ranges: Vec<String> = proxy
        .seen()
        .iter()
        .filter_map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert!(ranges.iter().any(|range| *range == format!("bytes={half}-")), "{ranges:?}");
}
