//! Registries that break off, say nothing, or want to be asked less: pulls and pushes, in the clear and over TLS.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::wire::{Fault, Wire};
use cofferdam_tests::{Builder, Context, Options, Process, Registry, digest, images};
use serde_json::{Value, json};

use crate::shared::{eventually, intact, noise, one_error, tidy};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes of the one file in the images that are pulled: some time on the wire.
const SIZE: usize = 2 << 20;

/// What is said of a pull that did not work.
const PULL: &[&str] = &["failed to get", "failed to head", "unexpected answer from registry"];

/// A layer with one file and a config for it.
fn parts(seed: u64) -> (cofferdam_tests::Blob, Value) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(SIZE as u64);
    tar.append_data(&mut header, "file", noise(seed, SIZE).as_slice()).unwrap();
    let tar = tar.into_inner().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [digest(&tar)] },
    });
    (images::layer(&tar), config)
}

/// A registry with such an image as `image:1`.
fn registry(seed: u64) -> Registry {
    let registry = Registry::start();
    let (layer, config) = parts(seed);
    registry.push_image("image", "1", &[layer], &config);
    registry
}

/// A Dockerfile that needs the files of an image.
fn copying(reference: &str) -> String {
    format!("FROM {reference} AS a\nFROM scratch\nCOPY --from=a /file /file\n")
}

/// Builds from an image and gives its file.
fn pulled(builder: &Builder, reference: &str) -> Result<Vec<u8>, String> {
    let context = Context::dockerfile(&copying(reference));
    let outcome = builder.build(&context).args("--output type=tar,dest=-").run();
    match outcome.code {
        Some(0) => Ok(cofferdam_tests::entries(&outcome.stdout)["file"].content.clone()),
        _ => Err(outcome.failure()),
    }
}

/// The builder builds as if nothing had been, and its store is whole.
fn unharmed(builder: Builder) {
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
    tidy(&builder);
    drop(intact(builder));
}

#[test]
fn a_pull_that_is_cut_goes_on_where_it_was() {
    let builder = Builder::plain();
    let registry = registry(500);
    let wire = Wire::to(registry.address(), |number| match number {
        0..4 => Fault::CutAnswers(500_000),
        _ => Fault::None,
    });
    let file = pulled(&builder, &wire.reference("image:1")).unwrap();
    assert!(file == noise(500, SIZE), "other bytes than were pushed");
    assert!(wire.cut() >= 2, "control: {} connections were cut", wire.cut());
    unharmed(builder);
}

#[test]
fn a_pull_that_never_comes_to_an_end_is_given_up() {
    let builder = Builder::plain();
    let registry = registry(510);
    // The same bytes again and again.
    let truncated = images::parts("busybox").0.bytes;
    let blob = digest(&truncated);
    let config = images::parts("busybox").1.to_string();
    let manifest = manifest(&config, &blob, truncated.len());
    let server = Server::start(move |request| {
        if request.path.contains("/manifests/") {
            let answer = Response::ok(manifest.clone()).with("content-type", MANIFEST);
            return answer.with("docker-content-digest", digest(manifest.as_bytes()));
        }
        if request.path.ends_with(&digest(config.as_bytes())) {
            return Response::ok(config.clone());
        }
        if request.path.ends_with(&blob) {
            let length = truncated.len().to_string();
            return Response::ok(&truncated[..100_000]).with("content-length", length);
        }
        Response::ok("{}")
    });
    let context = Context::dockerfile(&format!("FROM {}/image:1\nRUN true\n", server.address()));
    let stderr = builder.build(&context).run().failure();
    one_error(&stderr, &["failed to get", "is not sha256:"]);
    assert!(stderr.contains(&server.address()), "{stderr}");
    // Nobody answers at all.
    let wire = Wire::to(registry.address(), |_| Fault::CutAnswers(0));
    let stderr = pulled(&builder, &wire.reference("image:1")).unwrap_err();
    one_error(&stderr, PULL);
    assert!(stderr.contains(&wire.address()) && wire.cut() > 0, "{stderr}");
    unharmed(builder);
}

fn manifest(config: &str, layer: &str, size: usize) -> String {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": size }],
    })
    .to_string()
}

/// A second registry on the storage of another, which speaks TLS; its port.
fn secure(storage: &Path, directory: &Path) -> (Process, u16) {
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key -out cert -subj /CN=localhost -days 2".split(' '))
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n  tls:\n    certificate: {}\n    key: {}\n",
        storage.join("data").display(),
        directory.join("cert").display(),
        directory.join("key").display()
    );
    fs::write(directory.join("config.yml"), config).unwrap();
    let log = directory.join("log");
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(directory.join("config.yml")).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let process = Process::start(command);
    let port = || -> Option<u16> {
        let text = fs::read_to_string(&log).unwrap();
        let rest = text.split("listening on 127.0.0.1:").nth(1)?;
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest[..end].parse().ok()
    };
    eventually("a registry with TLS", || port().is_some());
    (process, port().unwrap())
}

#[test]
fn tls_that_is_dropped_in_the_middle_is_not_the_end() {
    let registry = registry(520);
    let directory = tempfile::tempdir().unwrap();
    let (_process, port) = secure(registry.storage(), directory.path());
    let wire = Wire::to(&format!("127.0.0.1:{port}"), |number| match number {
        0..3 => Fault::CutAnswers(700_000),
        _ => Fault::None,
    });
    // In the middle of the handshake, each time.
    let never = Wire::to(&format!("127.0.0.1:{port}"), |_| Fault::CutAnswers(300));
    let mut config = String::new();
    for address in [wire.address(), never.address()] {
        config.push_str(&format!("[registry.\"{address}\"]\nhttp = false\ninsecure = true\n"));
    }
    let builder = Builder::start(&Options { config, ..Options::default() });
    let file = pulled(&builder, &wire.reference("image:1")).unwrap();
    assert!(file == noise(520, SIZE), "other bytes than were pushed");
    assert!(wire.cut() >= 2, "control: {} connections were cut", wire.cut());
    let stderr = pulled(&builder, &never.reference("image:1")).unwrap_err();
    // The setting lets the builder try without TLS then, which this registry refuses.
    one_error(&stderr, PULL);
    assert!(stderr.contains(&never.address()), "{stderr}");
    unharmed(builder);
}

/// A context whose image has something to push.
fn pushed(seed: u64) -> Context {
    let context = Context::dockerfile("FROM scratch\nCOPY file /file\n");
    context.write("file", noise(seed, SIZE));
    context
}

#[test]
fn a_push_that_is_cut_is_begun_anew_and_one_that_always_is_given_up() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let context = pushed(530);
    let push = |wire: &Wire| {
        let output = format!("type=image,name={},push=true", wire.reference("pushed:1"));
        builder.build(&context).arg("--output").arg(output).run()
    };
    let always = Wire::to(registry.address(), |_| Fault::CutQuestions(600_000));
    let stderr = push(&always).failure();
    one_error(&stderr, &["failed to put", "failed to patch", "failed to post", "failed to head"]);
    assert!(stderr.contains(&always.address()), "{stderr}");
    assert!(registry.manifest("pushed", "1").is_none(), "a name without its layers");
    let twice = Wire::to(registry.address(), |number| match number {
        0..2 => Fault::CutQuestions(600_000),
        _ => Fault::None,
    });
    let _ = push(&twice).success();
    assert!(twice.cut() >= 1, "control");
    let image = registry.pull("pushed", "1");
    assert!(image.files()["file"].content == noise(530, SIZE), "other bytes than were built");
    unharmed(builder);
}

/// A registry with the busybox that answers 429 to the first `times` questions about a repository, and takes whatever is pushed.
fn limiting(times: usize, after: &'static str) -> Server {
    let (layer, config) = images::parts("busybox");
    let config = config.to_string();
    let manifest = manifest(&config, &digest(&layer.bytes), layer.bytes.len());
    let asked = AtomicUsize::new(0);
    Server::start(move |request| {
        if request.path.len() > "/v2/".len() && asked.fetch_add(1, Ordering::Relaxed) < times {
            return Response::status(429).with("retry-after", after);
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", _) => Response::status(202).with("location", "/v2/image/blobs/uploads/1"),
            ("PUT" | "PATCH", _) => Response::status(201),
            (_, path) if path.contains("/manifests/") => Response::ok(manifest.clone())
                .with("content-type", MANIFEST)
                .with("docker-content-digest", digest(manifest.as_bytes())),
            (_, path) if path.ends_with(&digest(config.as_bytes())) => Response::ok(config.clone()),
            (_, path) if path.ends_with(&digest(&layer.bytes)) => Response::ok(&*layer.bytes),
            ("HEAD", _) => Response::status(404),
            _ => Response::ok("{}"),
        }
    })
}

#[test]
fn a_registry_that_asks_for_patience_gets_it_and_one_that_asks_for_hours_is_named() {
    let builder = Builder::plain();
    let context = pushed(540);
    let pull = |server: &Server| {
        let text = format!("FROM {}/image:1\nRUN echo used\n", server.address());
        builder.build(&Context::dockerfile(&text)).args("--no-cache").run()
    };
    let push = |server: &Server| {
        let output = format!("type=image,name={}/image:2,push=true", server.address());
        builder.build(&context).arg("--output").arg(output).run()
    };
    for ask in [&pull as &dyn Fn(&Server) -> cofferdam_tests::Outcome, &push] {
        let soon = limiting(2, "1");
        let _ = ask(&soon).success();
        assert!(soon.seen().len() > 2, "control: {:?}", soon.seen());
        let late = limiting(usize::MAX, "7200");
        let stderr = ask(&late).failure();
        one_error(&stderr, &["429 too many requests"]);
        assert!(stderr.contains("asks to come again in 7200 s"), "{stderr}");
    }
    unharmed(builder);
}

#[test]
fn a_registry_that_says_nothing_holds_up_nobody_else() {
    let builder = Builder::plain();
    let registry = registry(550);
    for bytes in [0, 300_000] {
        let wire = Wire::to(registry.address(), move |_| Fault::HoldAnswers(bytes));
        let context = Context::dockerfile(&copying(&wire.reference("image:1")));
        let build = builder.build(&context).spawn();
        wire.wait_until_held();
        assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
        assert!(build.process().wait(Duration::ZERO).is_none(), "it waits:\n{}", build.said());
        build.interrupt();
        one_error(&build.finish().failure(), &["cancel"]);
    }
    let file = pulled(&builder, &registry.reference("image:1")).unwrap();
    assert!(file == noise(550, SIZE), "what was begun is completed");
    unharmed(builder);
}
