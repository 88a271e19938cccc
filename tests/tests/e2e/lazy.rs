//! Layers that nobody reads: they stay where they are, and go from there to where they are wanted.

use cofferdam_tests::http::{Response, Server, request};
use cofferdam_tests::{Builder, Context, Registry, images};

/// A registry with one image, behind a server that notes what is asked.
fn upstream() -> (Registry, Server, String) {
    let registry = Registry::start();
    let (layer, config) = images::parts("busybox");
    registry.push_image("base", "1", std::slice::from_ref(&layer), &config);
    let address = format!("http://{}", registry.address());
    let server = Server::start(move |asked| {
        let own = ["host", "connection", "content-length"];
        let headers = asked.headers.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let headers: Vec<(&str, &str)> =
            headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let url = format!("{address}{}", asked.path);
        let got = request(&asked.method, &url, &headers, &asked.body);
        let mut response = Response::status(got.status);
        if let Some(location) = got.header("location") {
            response = response.with("location", location.replace(&address, ""));
        }
        for name in ["content-type", "docker-content-digest", "range", "docker-upload-uuid"] {
            if let Some(value) = got.header(name) {
                response = response.with(name, value);
            }
        }
        response = response.with("content-length", got.header("content-length").unwrap_or("0"));
        response.body = got.body;
        response
    });
    (registry, server, cofferdam_tests::digest(&layer.bytes))
}

fn fetched(server: &Server, digest: &str) -> usize {
    let seen = server.seen();
    seen.iter().filter(|asked| asked.method == "GET" && asked.path.ends_with(digest)).count()
}

#[test]
fn a_base_of_which_nothing_is_read_is_not_pulled() {
    let (_registry, server, layer) = upstream();
    let builder = Builder::plain();
    let base = format!("FROM {}/base:1\n", server.address());
    let labelled = Context::dockerfile(&format!("{base}LABEL a=b\n"));
    let _ = builder.build(&labelled).run().success();
    assert_eq!(fetched(&server, &layer), 0);
    let target = Registry::start();
    let name = target.reference("copy:1");
    let outcome = builder.build(&labelled).args("--push -t").arg(&name).run().success();
    assert_eq!(fetched(&server, &layer), 1, "it passes through, once");
    assert!(!outcome.stderr.contains("extracting"), "{}", outcome.stderr);
    assert!(target.pull("copy", "1").files().contains_key("bin/busybox"));
    // What is linked does not look at what it is put on.
    let linked =
        Context::new(&[("Dockerfile", &format!("{base}COPY --link a /a\n")), ("a", "linked")]);
    let name = target.reference("linked:1");
    let outcome = builder.build(&linked).args("--push -t").arg(&name).run().success();
    assert!(!outcome.stderr.contains("extracting"), "{}", outcome.stderr);
    assert_eq!(target.pull("linked", "1").files()["a"].text(), "linked");
    // Control: a step reads.
    let reading = Context::dockerfile(&format!("{base}RUN echo x > /x\n"));
    let (outcome, image) = builder.build(&reading).image_with("");
    assert_eq!(image.text("x"), "x\n");
    assert!(outcome.stderr.contains("extracting"), "{}", outcome.stderr);
}

#[test]
fn within_a_registry_layers_are_mounted() {
    let (registry, server, layer) = upstream();
    let builder = Builder::plain();
    let context = Context::dockerfile(&format!("FROM {}/base:1\nLABEL a=b\n", server.address()));
    let name = format!("{}/mounted:1", server.address());
    let _ = builder.build(&context).args("--push -t").arg(&name).run().success();
    let hex = layer.trim_start_matches("sha256:");
    let mounts = |asked: &cofferdam_tests::http::Request| {
        asked.method == "POST" && asked.path.contains("mount=") && asked.path.contains(hex)
    };
    assert!(server.seen().iter().any(mounts), "{:?}", server.seen());
    assert_eq!(fetched(&server, &layer), 0);
    assert!(registry.pull("mounted", "1").files().contains_key("bin/busybox"));
    // Control: where it cannot be mounted, it is read.
    let other = Registry::start();
    let _ = builder.build(&context).args("--push -t").arg(other.reference("x:1")).run().success();
    assert_eq!(fetched(&server, &layer), 1);
}
