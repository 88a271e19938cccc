//! Bad input: one clear error each, with file and line where there is one, and a builder that goes on as before.

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Builder, Context, Options, digest, images, need_root};

/// The last line on standard error: what the program itself says.
fn error_line(stderr: &str) -> &str {
    stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
}

/// Builds `text` and expects one error line with these parts, once, and a following build to work.
fn refused(builder: &Builder, text: &str, args: &str, parts: &[&str]) {
    let context = Context::dockerfile(text);
    let stderr = builder.build(&context).args(args).run().failure();
    for part in parts {
        assert!(stderr.contains(part), "{part:?} is not in:\n{stderr}");
    }
    let errors = stderr.lines().filter(|line| line.starts_with("cofferdam: ")).count();
    assert_eq!(errors, 1, "one error line:\n{stderr}");
    assert!(error_line(&stderr).starts_with("cofferdam: "), "the error comes last:\n{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("/src/"), "{stderr}");
    assert!(builder.image("FROM scratch\nLABEL next=works\n").setting("Labels")["next"] == "works");
}

#[test]
fn what_the_dockerfile_gets_wrong_is_said_with_its_line() {
    let builder = Builder::plain();
    let table: &[(&str, &str, &[&str])] = &[
        ("FROM @busybox\nENV\n", "", &["Dockerfile:2", "ENV"]),
        ("FROM @busybox\n\n# a comment\nLABEL \"unterminated\n", "", &["Dockerfile:4"]),
        ("FROM @busybox\nCOPPY a b\n", "", &["Dockerfile:2", "COPPY", "COPY"]),
        ("FROM @busybox\nCOPY --nonsense=1 a b\n", "", &["Dockerfile:2", "nonsense"]),
        ("FROM @busybox\nRUN <<EOF\necho\n", "", &["Dockerfile:2", "EOF"]),
        ("RUN true\n", "", &["Dockerfile:1", "no build stage"]),
        ("", "", &["Dockerfile"]),
        ("FROM\n", "", &["Dockerfile:1"]),
        ("FROM @busybox\nCOPY missing /x\n", "", &["Dockerfile:2", "missing", "not found"]),
        ("FROM @busybox\nCOPY --from=nostage /a /b\n", "", &["Dockerfile:2", "nostage"]),
        (
            "FROM @busybox\nRUN echo before >&2; exit 42\n",
            "",
            &["Dockerfile:2", "exit code: 42", "before"],
        ),
        (
            "FROM @busybox\nRUN nosuchprogram\n",
            "",
            &["Dockerfile:2", "exit code: 127", "nosuchprogram"],
        ),
        ("FROM @busybox\nRUN [\"/nosuchprogram\"]\n", "", &["Dockerfile:2", "nosuchprogram"]),
        ("FROM @busybox\nRUN sh -c 'kill -9 $$'; exit $?\n", "", &["Dockerfile:2", "137"]),
        ("FROM @busybox AS only\n", "--target other", &["other"]),
        (
            "FROM @busybox\nRUN --mount=type=secret,id=token,required cat /run/secrets/token\n",
            "",
            &["Dockerfile:2", "token"],
        ),
        ("FROM @busybox\nUSER nobodyatall\nRUN true\n", "", &["nobodyatall"]),
        ("FROM @busybox\nADD --checksum=md5:1 http://127.0.0.1:1/x /x\n", "", &["Dockerfile:2"]),
        ("FROM @busybox\nEXPOSE 99999999\n", "", &["Dockerfile:2", "99999999"]),
        ("FROM @busybox\nHEALTHCHECK --interval=soon CMD true\n", "", &["Dockerfile:2", "soon"]),
        ("FROM @busybox\nONBUILD FROM x\n", "", &["Dockerfile:2", "FROM"]),
        ("ARG X\nFROM ${X}\n", "", &["Dockerfile:2"]),
        ("FROM a AS a\nFROM b AS A:B\n", "", &["Dockerfile:"]),
    ];
    for (text, args, parts) in table {
        refused(&builder, text, args, parts);
    }
}

#[test]
fn a_missing_dockerfile_and_a_missing_context_are_said() {
    let builder = Builder::plain();
    let empty = Context::new(&[]);
    let error = builder.build(&empty).run().failure();
    assert!(
        error.contains("Dockerfile")
            && (error.contains("no such file") || error.contains("not found")),
        "{error}"
    );
    let gone = cofferdam_tests::Build::new(Some(&builder.address()), "/nonexistent/context")
        .run()
        .failure();
    assert!(gone.contains("/nonexistent/context"), "{gone}");
    let nobody = cofferdam_tests::Build::new(
        Some("unix:///nonexistent/socket"),
        empty.path().to_str().unwrap(),
    )
    .run()
    .failure();
    assert!(nobody.contains("/nonexistent/socket"), "{nobody}");
}

#[test]
fn registries_that_are_away_or_lie_are_said() {
    let builder = Builder::plain();
    // A port nobody listens on.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(
        &builder,
        &format!("FROM {closed}/image:1\n"),
        "",
        &["Dockerfile:1", &closed.to_string()],
    );
    refused(
        &builder,
        &format!("FROM {}/nothing:here\n", images::registry().address()),
        "",
        &["Dockerfile:1", "not found"],
    );
    let looked_up = "dial tcp: lookup absent.invalid: ";
    refused(&builder, "FROM absent.invalid/image:1\n", "", &["Dockerfile:1", looked_up]);
    refused(&builder, "FROM UPPER/case:1\n", "", &["Dockerfile:1", "UPPER"]);
    let garbage = Server::start(|_| {
        Response::ok("<html>").with("content-type", "application/vnd.oci.image.manifest.v1+json")
    });
    refused(&builder, &format!("FROM {}/image:1\n", garbage.address()), "", &["Dockerfile:1"]);
    let endless = Server::start(|_| {
        Response::ok(vec![b'{'; 16 << 20])
            .with("content-type", "application/vnd.oci.image.manifest.v1+json")
    });
    refused(&builder, &format!("FROM {}/image:1\n", endless.address()), "", &["Dockerfile:1"]);
}

/// A registry that has busybox but gives other bytes than it promised for what `lies` says.
fn lying(lies: &'static str) -> Server {
    let (layer, config) = images::parts("busybox");
    let config = serde_json::to_vec(&config).unwrap();
    let (config_digest, layer_digest) = (digest(&config), digest(&layer.bytes));
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
        "layers": [{ "mediaType": layer.media_type, "digest": layer_digest, "size": layer.bytes.len() }],
    })
    .to_string();
    Server::start(move |request| {
        let spoilt = |what: &str, bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            if what == lies {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x20;
            }
            Response::ok(bytes)
        };
        if request.path.contains("/manifests/") {
            let given = spoilt("manifest", manifest.as_bytes());
            return given
                .with("content-type", "application/vnd.oci.image.manifest.v1+json")
                .with("docker-content-digest", digest(manifest.as_bytes()));
        }
        if request.path.ends_with(&config_digest) {
            return spoilt("config", &config);
        }
        if request.path.ends_with(&layer_digest) {
            return spoilt("layer", &layer.bytes);
        }
        Response::ok("{}")
    })
}

#[test]
fn bytes_with_another_digest_are_never_used() {
    let builder = Builder::plain();
    let honest = lying("nothing");
    let image = builder.image(&format!("FROM {}/image:1\nRUN echo x > /x\n", honest.address()));
    assert_eq!(image.text("x"), "x\n", "control: without a lie it works");
    for lies in ["manifest", "config", "layer"] {
        let fresh = Builder::plain();
        let server = lying(lies);
        let context =
            Context::dockerfile(&format!("FROM {}/image:1\nRUN echo x > /x\n", server.address()));
        let error = fresh.build(&context).run().failure();
        assert!(error.contains("digest") && error.contains("Dockerfile:"), "{lies}: {error}");
        assert_eq!(
            fresh.image("FROM @busybox\nRUN echo next > /n\n").text("n"),
            "next\n",
            "{lies}"
        );
    }
}

#[test]
fn a_full_disk_is_said_and_survived() {
    need_root();
    let builder = Builder::start(&Options { disk: Some("24m"), ..Options::default() });
    let context =
        Context::dockerfile("FROM @busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n");
    let error = builder.build(&context).run().failure();
    assert!(error.contains("No space left") || error.contains("no space left"), "{error}");
    let next = Context::dockerfile("FROM @busybox\nRUN echo next > /n\n");
    assert_eq!(builder.build(&next).image().text("n"), "next\n");
    // Also when it is the builder itself that writes.
    let big = Context::new(&[("Dockerfile", "FROM scratch\nCOPY big /big\n")]);
    big.write("big", vec![7_u8; 40 << 20]);
    let error = builder.build(&big).run().failure();
    assert!(error.to_lowercase().contains("no space left"), "{error}");
    let again = builder.build(&next).run().success();
    assert!(again.ran().is_empty(), "what was there is still there: {:?}", again.ran());
    let home = builder.stop();
    let builder = Builder::start_in(home, &Options { disk: Some("24m"), ..Options::default() });
    assert!(builder.build(&next).run().success().ran().is_empty());
}

#[test]
fn a_disk_that_copies_fill_is_said_and_survived() {
    need_root();
    let builder = Builder::start(&Options { disk: Some("24m"), ..Options::default() });
    let copies = "FROM scratch\nCOPY big /1\nCOPY big /2\nCOPY big /3\n";
    let context = Context::new(&[("Dockerfile", copies)]);
    context.write("big", vec![7_u8; 9 << 20]);
    let error = builder.build(&context).run().failure();
    assert!(error.to_lowercase().contains("no space left"), "{error}");
    // What was begun is gone, and leaves room for something small.
    let small = Context::new(&[("Dockerfile", "FROM scratch\nCOPY small /s\n"), ("small", "s\n")]);
    assert_eq!(builder.build(&small).image().text("s"), "s\n");
}

#[test]
fn hostile_contexts_stay_inside() {
    let builder = Builder::plain();
    let context = Context::new(&[
        ("Dockerfile", "FROM scratch\nCOPY dir /dir\nCOPY link/passwd* /p/\n"),
        ("dir/a", "a"),
    ]);
    context.link("dir/up", "../../../../../../etc/passwd").link("link", "/etc");
    let files = builder.build(&context).tar();
    assert_eq!(files["dir/up"].kind, 'l', "a link is copied as a link");
    assert!(files.values().all(|entry| !entry.text().contains("root:x:")), "{:?}", files.keys());
    let through = Context::new(&[("Dockerfile", "FROM scratch\nCOPY link/passwd /p\n")]);
    through.link("link", "/etc");
    let error = builder.build(&through).run().failure();
    assert!(error.contains("not found") && error.contains("Dockerfile:2"), "{error}");
}
