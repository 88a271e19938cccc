//! Registries that lie: other bytes than promised, documents with two meanings, credentials for strangers, tags that move.

use std::sync::atomic::{AtomicU32, Ordering};

use cofferdam_tests::http::{Request, Response, Server};
use cofferdam_tests::registry::{PASSWORD, USER};
use cofferdam_tests::{Builder, Context, digest, images};
use serde_json::{Value, json};

use crate::attack::{Attack, Control, ONCE, own};
use crate::naive::{archive, evil};
use crate::stage::{Stage, options};

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "registries",
        "digest-bytes",
        "layer digest confusion: other bytes, sizes, diff ids, trailing bytes",
        ONCE,
        bytes,
        honest,
    ),
    own(
        "registries",
        "digest-documents",
        "CVE-2021-41190: a document that is index and manifest at once",
        ONCE,
        documents,
        honest,
    ),
    own("registries", "digest-paths", "CVE-2024-3727: digests that are paths", ONCE, paths, honest),
    own(
        "registries",
        "foreign-realms",
        "CVE-2020-15157, CVE-2026-24845: credentials for a stranger's realm, redirect or URL",
        ONCE,
        realms,
        careless,
    ),
    own(
        "registries",
        "moving-tags",
        "a tag that is pointed elsewhere between resolving and pulling",
        ONCE,
        moving,
        flipped,
    ),
    own(
        "registries",
        "forged-cache",
        "CVE-2024-24557: an imported cache that claims another result",
        ONCE,
        forged_cache,
        believed,
    ),
];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image in pieces, to be spoiled.
struct Image {
    manifest: Value,
    config: Value,
    /// What is served for the layer, whatever its digest says.
    layer: Vec<u8>,
    media_type: &'static str,
    /// Whether the digests in the manifest follow what is served.
    follow: bool,
}

impl Image {
    fn new() -> Self {
        let (layer, config) = images::parts("busybox");
        let descriptor = json!({ "mediaType": layer.media_type, "digest": digest(&layer.bytes), "size": layer.bytes.len() });
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [descriptor] });
        Self { manifest, config, layer: layer.bytes, media_type: MANIFEST, follow: true }
    }

    /// Serves it; every document is under its true digest.
    fn serve(mut self) -> Server {
        let config = self.config.to_string().into_bytes();
        if self.manifest["config"].is_null() {
            self.manifest["config"] = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() });
        }
        if self.follow {
            self.manifest["layers"][0]["digest"] = digest(&self.layer).into();
        }
        let manifest = self.manifest.to_string();
        let (layer, media_type) = (self.layer, self.media_type);
        Server::start(move |request| {
            if request.path.contains("/manifests/") {
                let answer = Response::ok(manifest.clone()).with("content-type", media_type);
                return answer.with("docker-content-digest", digest(manifest.as_bytes()));
            }
            if request.path.ends_with(&digest(&config)) {
                return Response::ok(config.clone());
            }
            if request.path.contains("/blobs/") {
                return Response::ok(layer.clone());
            }
            Response::ok("{}")
        })
    }
}

fn build(stage: &Stage, server: &Server) -> cofferdam_tests::Outcome {
    let context =
        Context::dockerfile(&format!("FROM {}/image:1\nRUN echo used\n", server.address()));
    stage.builder.build(&context).args("--no-cache").run()
}

fn refused(stage: &Stage, what: &str, image: Image) {
    let server = image.serve();
    let outcome = build(stage, &server);
    assert_ne!(outcome.code, Some(0), "{what} was accepted");
    let error = outcome.failure();
    assert!(!error.contains("panicked") && error.contains("Dockerfile:1"), "{what}: {error}");
}

/// What is wrong with an image, with something to put into it.
type Lie<T> = fn(&mut Image, &T);

fn bytes(stage: &Stage) -> String {
    let other = images::layer(&archive(&[evil('0', "evil", "x")]));
    let changes: &[(&str, Lie<[u8]>)] = &[
        ("other bytes", |image, other| (image.layer, image.follow) = (other.to_vec(), false)),
        ("a smaller size", |image, _| image.manifest["layers"][0]["size"] = 1000.into()),
        ("a larger size", |image, _| image.manifest["layers"][0]["size"] = 999_999_999.into()),
        ("a negative size", |image, _| image.manifest["layers"][0]["size"] = (-1).into()),
        ("another diff id", |image, _| {
            image.config["rootfs"]["diff_ids"][0] = digest(b"another").into()
        }),
        ("no diff id", |image, _| image.config["rootfs"]["diff_ids"] = json!([])),
        ("two diff ids", |image, _| {
            image.config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest(b"more").into())
        }),
        ("bytes behind the end", |image, _| {
            image.layer.extend(b"and more");
            image.manifest["layers"][0]["size"] = image.layer.len().into();
        }),
        ("cut short", |image, _| {
            image.layer.truncate(image.layer.len() / 2);
            image.manifest["layers"][0]["size"] = image.layer.len().into();
        }),
        ("foreign bytes by URL", |image, _| {
            image.layer = b"nothing".to_vec();
            image.follow = false;
            image.manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
        }),
    ];
    for (what, change) in changes {
        let mut image = Image::new();
        // A layer that nothing has pulled yet.
        let mut tar = archive(&[evil('0', "fresh", what)]);
        tar.truncate(tar.len());
        image.layer = images::layer(&tar).bytes;
        image.config["rootfs"]["diff_ids"] = json!([digest(&tar)]);
        image.manifest["layers"][0]["size"] = image.layer.len().into();
        image.manifest["layers"][0]["digest"] = digest(&image.layer).into();
        change(&mut image, &other.bytes);
        let server = image.serve();
        let context = Context::dockerfile(&format!(
            "FROM {}/image:1\nCOPY --from=0 /fresh /copy\n",
            server.address()
        ));
        let file = context.join("Dockerfile");
        std::fs::write(
            file,
            format!(
                "FROM {}/image:1 AS bad\nFROM scratch\nCOPY --from=bad / /\n",
                server.address()
            ),
        )
        .unwrap();
        let outcome = stage.builder.build(&context).run();
        assert_ne!(outcome.code, Some(0), "{what} was accepted");
        assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    }
    format!("{} lies refused", changes.len())
}

fn honest(stage: &Stage) -> Control {
    let server = Image::new().serve();
    let _ = build(stage, &server).success();
    Control::Shown("the same registry without the lie is used".to_owned())
}

fn documents(stage: &Stage) -> String {
    let manifests = json!([{ "mediaType": MANIFEST, "digest": digest(b"other"), "size": 5, "platform": { "os": "linux", "architecture": "amd64" } }]);
    let changes: &[(&str, Lie<Value>)] = &[
        ("both", |image, manifests| image.manifest["manifests"] = manifests.clone()),
        ("both, as an index", |image, manifests| {
            image.manifest["manifests"] = manifests.clone();
            image.manifest["mediaType"] = INDEX.into();
            image.media_type = INDEX;
        }),
        ("says index, served as manifest", |image, _| image.manifest["mediaType"] = INDEX.into()),
        ("says manifest, served as index", |image, _| image.media_type = INDEX),
    ];
    for (what, change) in changes {
        let mut image = Image::new();
        change(&mut image, &manifests);
        refused(stage, what, image);
    }
    format!("{} documents refused", changes.len())
}

fn paths(stage: &Stage) -> String {
    let target = stage.planted.open();
    let digests = [
        format!("sha256:../../../../../..{}/file", target.display()),
        "sha256:../../x".to_owned(),
        "sha256:ABCDEF".to_owned(),
        format!("sha256:{}", "A".repeat(64)),
        format!("sha256:{}", "0".repeat(63)),
        format!("md5:{}", "0".repeat(32)),
        "sha256:".to_owned(),
        format!("{}\r\nX-Evil: 1", digest(b"x")),
    ];
    for text in &digests {
        for place in ["layer", "config"] {
            let mut image = Image::new();
            image.follow = false;
            if place == "layer" {
                image.manifest["layers"][0]["digest"] = text.as_str().into();
            } else {
                image.manifest["config"] = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": text, "size": 10 });
            }
            refused(stage, text, image);
        }
    }
    format!("{} digests refused in both places", digests.len())
}

/// A registry that sends the client elsewhere for what it wants.
fn sending(to: &str, how: &'static str) -> Server {
    let to = to.to_owned();
    let own = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let known = std::sync::Arc::clone(&own);
    let server = Server::start(move |request: &Request| {
        let evil = format!("http://{to}");
        match how {
            "realm" => Response::status(401)
                .with("www-authenticate", format!("Bearer realm=\"{evil}/token\",service=\"x\"")),
            "redirect" if request.header("authorization").is_none() => {
                Response::status(401).with("www-authenticate", "Basic realm=\"x\"")
            }
            "redirect" => Response::status(307).with("location", format!("{evil}{}", request.path)),
            _ => {
                let realm =
                    format!("http://{}/token", known.get().map(String::as_str).unwrap_or_default());
                if request.path.starts_with("/token") {
                    return Response::status(307).with("location", format!("{evil}/token"));
                }
                Response::status(401)
                    .with("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"x\""))
            }
        }
    });
    own.set(server.address()).unwrap();
    server
}

fn realms(stage: &Stage) -> String {
    // The stranger is another host: an address of this machine that is not the registry's.
    let stranger = Server::start(|_| Response::ok("{\"token\":\"x\"}"));
    for how in ["realm", "redirect", "token redirect"] {
        let server = sending(&stranger.address(), how);
        let context =
            Context::dockerfile(&format!("FROM {}/image:1\nRUN true\n", server.address()));
        let outcome = stage.builder.build(&context).login(&server.address(), USER, PASSWORD).run();
        assert_ne!(outcome.code, Some(0), "{how}");
        assert!(!server.seen().is_empty(), "control: {how}: the registry was asked");
    }
    for request in stranger.seen() {
        assert!(request.header("authorization").is_none(), "{request:?}");
        assert!(!String::from_utf8_lossy(&request.body).contains(PASSWORD), "{request:?}");
        assert!(!request.path.contains(PASSWORD), "{request:?}");
    }
    format!("the stranger was asked {} times, never with a credential", stranger.seen().len())
}

fn careless(_: &Stage) -> Control {
    let stranger = Server::start(|_| Response::ok("{}"));
    let server = sending(&stranger.address(), "redirect");
    let said = std::process::Command::new("curl")
        .args([
            "-sL",
            "--location-trusted",
            "-u",
            &format!("{USER}:{PASSWORD}"),
            &server.url("v2/x"),
        ])
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    assert!(stranger.seen().iter().any(|request| request.header("authorization").is_some()));
    Control::Shown("a client that trusts redirects sends its password".to_owned())
}

/// A registry whose tag is another image each time it is asked for.
fn flipping() -> Server {
    let asked = AtomicU32::new(0);
    let made = |text: &str| {
        let tar = archive(&[evil('0', "which", text)]);
        let layer = images::layer(&tar).bytes;
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [digest(&tar)] } }).to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&layer), "size": layer.len() }],
        })
        .to_string();
        [manifest.into_bytes(), config.into_bytes(), layer]
    };
    let all = [made("first"), made("second")];
    Server::start(move |request| {
        let known = all.iter().flatten().find(|bytes| request.path.ends_with(&digest(bytes)));
        let bytes = match known {
            Some(bytes) => bytes,
            None if request.path.contains("/manifests/") => {
                &all[(asked.fetch_add(1, Ordering::Relaxed) % 2) as usize][0]
            }
            None => return Response::ok("{}"),
        };
        Response::ok(bytes.clone())
            .with("content-type", MANIFEST)
            .with("docker-content-digest", digest(bytes))
    })
}

fn moving(stage: &Stage) -> String {
    for _ in 0..4 {
        let server = flipping();
        let name = format!("{}/image:1", server.address());
        let context = Context::dockerfile(&format!(
            "FROM {name} AS a\nFROM {name} AS b\nFROM scratch\nCOPY --from=a /which /a\nCOPY --from=b /which /b\nCOPY --from={name} /which /c\n"
        ));
        let files = stage.builder.build(&context).tar();
        let texts = ["a", "b", "c"].map(|name| files[name].text());
        assert!(texts.iter().all(|text| *text == texts[0]), "one build, two images: {texts:?}");
    }
    "a name is one image for a whole build".to_owned()
}

fn flipped(_: &Stage) -> Control {
    let server = flipping();
    let ask = || {
        cofferdam_tests::http::request("GET", &server.url("v2/image/manifests/1"), &[], b"").body
    };
    assert_ne!(ask(), ask());
    Control::Shown("asked twice, the tag is two images".to_owned())
}

fn cached(text: &str) -> Context {
    Context::dockerfile(&format!("FROM @busybox\nRUN echo {text} > /out\n"))
}

fn forged_cache(stage: &Stage) -> String {
    let registry = cofferdam_tests::Registry::start();
    // A cache of another build under the name that the victim imports: nothing of it may match.
    let attacker = Builder::start(&options(stage.level));
    let name = registry.reference("cache:1");
    let evil = Context::dockerfile("FROM @busybox\nENV A=1\nRUN echo evil > /out\n");
    let _ = attacker
        .build(&evil)
        .arg("--cache-to")
        .arg(format!("type=registry,mode=max,ref={name}"))
        .run()
        .success();
    let victim = Builder::start(&options(stage.level));
    for text in [
        "FROM @busybox\nRUN echo good > /out\n",
        "FROM @busybox\nENV A=2\nRUN echo evil > /out\n",
        "FROM scratch\nHEALTHCHECK CMD x\n",
    ] {
        let outcome = victim
            .build(&Context::dockerfile(text))
            .arg("--cache-from")
            .arg(format!("type=registry,ref={name}"))
            .run()
            .success();
        assert!(
            outcome.cached().iter().all(|step| !step.contains("RUN")),
            "{text}: {:?}",
            outcome.cached()
        );
    }
    "what is not the same operation on the same input is no hit".to_owned()
}

fn believed(stage: &Stage) -> Control {
    let registry = cofferdam_tests::Registry::start();
    let name = registry.reference("cache:1");
    let maker = Builder::start(&options(stage.level));
    let _ = maker
        .build(&cached("same"))
        .arg("--cache-to")
        .arg(format!("type=registry,mode=max,ref={name}"))
        .run()
        .success();
    let user = Builder::start(&options(stage.level));
    let outcome = user
        .build(&cached("same"))
        .arg("--cache-from")
        .arg(format!("type=registry,ref={name}"))
        .run()
        .success();
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    Control::Shown("of the same operation it is one".to_owned())
}
