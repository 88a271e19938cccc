//! Sources as a client of the gateway uses them: what was looked up is what is used, single blobs, and who speaks about an image.

use std::sync::atomic::{AtomicUsize, Ordering};

use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::moby::buildkit::v1::PruneRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as wire;
use bollard_buildkit_proto::pb;
use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Builder, Registry, digest, images};
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Endpoint;

use super::gateway::{Driven, graph};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SBOM: &str = "https://spdx.dev/Document";

fn source(identifier: &str, attrs: &[(&str, &str)]) -> pb::SourceOp {
    let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    pb::SourceOp { identifier: identifier.to_owned(), attrs: attrs.collect() }
}

/// Names the result of a source by itself.
async fn use_source(build: &Driven, source: pb::SourceOp) -> Result<String, Status> {
    let op = pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() };
    build.solve(graph(vec![op])).await
}

async fn look_up(
    build: &Driven,
    source: pb::SourceOp,
    image: Option<wire::ResolveSourceImageRequest>,
) -> wire::ResolveSourceMetaResponse {
    let request =
        wire::ResolveSourceMetaRequest { source: Some(source), image, ..Default::default() };
    build.bridge().resolve_source_meta(build.of(request)).await.unwrap().into_inner()
}

async fn read(build: &Driven, reference: &str, path: &str) -> String {
    let request = wire::ReadFileRequest {
        r#ref: reference.to_owned(),
        file_path: path.to_owned(),
        ..Default::default()
    };
    let read = build.bridge().read_file(build.of(request)).await.unwrap().into_inner();
    String::from_utf8(read.data).unwrap()
}

async fn stat(build: &Driven, reference: &str, path: &str) -> Stat {
    let request = wire::StatFileRequest {
        r#ref: reference.to_owned(),
        path: path.to_owned(),
        ..Default::default()
    };
    let found = build.bridge().stat_file(build.of(request)).await.unwrap().into_inner();
    found.stat.unwrap()
}

async fn prune(builder: &Builder) {
    let endpoint = Endpoint::from_shared(builder.address()).unwrap();
    let mut client = ControlClient::new(endpoint.connect().await.unwrap());
    let request = PruneRequest { all: true, ..Default::default() };
    let mut pruned = client.prune(request).await.unwrap().into_inner();
    while pruned.message().await.unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_uses_the_download_that_it_looked_up() {
    let builder = Builder::plain();
    let answers = AtomicUsize::new(0);
    // Every answer is another one.
    let server = Server::start(move |_| {
        Response::ok(format!("answer {}", answers.fetch_add(1, Ordering::Relaxed)))
    });
    let file = || source(&server.url("file"), &[]);

    let build = Driven::begin(&builder, "first", None).await;
    let found = look_up(&build, file(), None).await.http.unwrap();
    assert_eq!(found.checksum, digest(b"answer 0"));
    prune(&builder).await;
    let used = use_source(&build, file()).await.unwrap();
    assert_eq!(read(&build, &used, "/file").await, "answer 0");
    // Another file made of the same answer.
    let named = source(&server.url("file"), &[("http.filename", "name"), ("http.perm", "0644")]);
    let used = use_source(&build, named).await.unwrap();
    assert_eq!(read(&build, &used, "/name").await, "answer 0");
    // What the client demands is compared with what the build has.
    let later = digest(b"answer 1");
    let demanded = source(&server.url("file"), &[("http.checksum", later.as_str())]);
    let error = use_source(&build, demanded).await.unwrap_err();
    assert!(error.message().contains("digest mismatch"), "{error:?}");
    assert_eq!(server.seen().len(), 1);
    build.finish().await;

    let build = Driven::begin(&builder, "second", None).await;
    let used = use_source(&build, file()).await.unwrap();
    assert_eq!(read(&build, &used, "/file").await, "answer 1", "each build asks for itself");
    build.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_a_registry_is_a_file() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let digest = registry.push_blob("app", b"content");
    registry.push_blob("other", b"something else");
    let blob = |name: &str| format!("docker-image+blob://{}@{digest}", registry.reference(name));
    let build = Driven::begin(&builder, "blob", None).await;
    let attrs = [
        ("http.filename", "a/layer"),
        ("http.uid", "123"),
        ("http.gid", "456"),
        ("http.perm", "0640"),
    ];
    let used = use_source(&build, source(&blob("app"), &attrs)).await.unwrap();
    assert_eq!(read(&build, &used, "/layer").await, "content");
    let found = stat(&build, &used, "/layer").await;
    assert_eq!((found.uid, found.gid, found.size, found.mod_time), (123, 456, 7, 0));
    assert_eq!(found.mode & 0o777, 0o640);
    // Without a name it is called by its digest, and belongs to root.
    let used = use_source(&build, source(&blob("app"), &[])).await.unwrap();
    let found = stat(&build, &used, &format!("/{}", &digest["sha256:".len()..])).await;
    assert_eq!((found.uid, found.gid, found.mode & 0o777), (0, 0, 0o600));

    // That the bytes are here already opens nothing: the repository that is named does not have them.
    let error = use_source(&build, source(&blob("other"), &[])).await.unwrap_err();
    assert!(error.message().contains("not found"), "{error:?}");
    let tagged = blob("app").replace('@', ":tag@");
    let error = use_source(&build, source(&tagged, &[])).await.unwrap_err();
    assert!(error.message().contains("has a tag"), "{error:?}");
    let layout = blob("app").replace("docker-image+blob", "oci-layout+blob");
    let error = use_source(&build, source(&layout, &[])).await.unwrap_err();
    assert!(error.message().contains("store id"), "{error:?}");
    build.finish().await;
}

/// An artifact under a tag, of empty config and these layers, as an entry of an index.
fn push(registry: &Registry, tag: &str, layers: &Value, annotations: Value) -> Value {
    let config = registry.push_blob("app", b"{}");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        "layers": layers,
    });
    let digest = registry.push_manifest("app", tag, &manifest);
    let size = serde_json::to_vec(&manifest).unwrap().len();
    json!({ "mediaType": MANIFEST, "digest": digest, "size": size, "annotations": annotations })
}

/// A layer of `bytes`.
fn layer(registry: &Registry, bytes: &[u8], media_type: &str, annotations: &Value) -> Value {
    let digest = registry.push_blob("app", bytes);
    let size = bytes.len();
    json!({ "mediaType": media_type, "digest": digest, "size": size, "annotations": annotations })
}

/// An image that is attested and signed; the digests of the index, the image, the attestation, the signature.
fn push_attested(registry: &Registry) -> [String; 4] {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [digest(b"layer")] },
    });
    let image = registry.push_image("app", "image", &[images::layer(b"layer")], &config);
    let (bytes, _) = registry.manifest("app", "image").unwrap();
    let statement = |kind: &str| {
        let about = json!({ "in-toto.io/predicate-type": kind });
        layer(registry, kind.as_bytes(), "application/vnd.in-toto+json", &about)
    };
    let statements = json!([statement(PROVENANCE), statement(SBOM)]);
    let about = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image,
    });
    let attestation = push(registry, "attestation", &statements, about);
    let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let signed = json!([layer(registry, b"signature", bundle, &json!({}))]);
    let mut signature = push(registry, "signature", &signed, json!({}));
    signature["artifactType"] = bundle.into();
    let digest_of = |entry: &Value| entry["digest"].as_str().unwrap().to_owned();
    let referrers = digest_of(&attestation).replace(':', "-");
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [signature] });
    registry.push_manifest("app", &referrers, &list);
    let named = json!({
        "mediaType": MANIFEST,
        "digest": image,
        "size": bytes.len(),
        "platform": { "os": "linux", "architecture": architecture },
    });
    let index =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named, attestation] });
    let root = registry.push_manifest("app", "latest", &index);
    [root, image, digest_of(&attestation), digest_of(&signature)]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_about_an_image_is_told() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let [root, image, attestation, signature] = push_attested(&registry);
    let named = || source(&format!("docker-image://{}", registry.reference("app:latest")), &[]);
    let build = Driven::begin(&builder, "attested", None).await;
    let ask = |chain: bool, kinds: &[&str]| wire::ResolveSourceImageRequest {
        no_config: true,
        attestation_chain: chain,
        resolve_attestations: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
    };

    let plain = look_up(&build, named(), Some(ask(false, &[]))).await.image.unwrap();
    assert_eq!(plain.digest, root);
    assert!(plain.attestation_chain.is_none() && plain.config.is_empty());

    let whole = look_up(&build, named(), Some(ask(true, &[]))).await.image.unwrap();
    let chain = whole.attestation_chain.unwrap();
    assert_eq!(
        (&chain.root, &chain.image_manifest, &chain.attestation_manifest),
        (&root, &image, &attestation)
    );
    assert_eq!(chain.signature_manifests, std::slice::from_ref(&signature));
    let mut parts: Vec<&String> = chain.blobs.keys().collect();
    let bundle = digest(b"signature");
    let mut expected = vec![&root, &attestation, &signature, &bundle];
    parts.sort();
    expected.sort();
    assert_eq!(parts, expected, "the image itself is no part of what speaks about it");
    for (name, part) in &chain.blobs {
        assert_eq!(*name, digest(&part.data));
        let descriptor = part.descriptor.as_ref().unwrap();
        assert_eq!((&descriptor.digest, descriptor.size), (name, part.data.len() as i64));
    }

    // Naming statements asks for the chain as well, and brings those.
    let some = look_up(&build, named(), Some(ask(false, &[PROVENANCE]))).await.image.unwrap();
    let chain = some.attestation_chain.unwrap();
    assert_eq!(chain.blobs[&digest(PROVENANCE.as_bytes())].data, PROVENANCE.as_bytes());
    assert!(!chain.blobs.contains_key(&digest(SBOM.as_bytes())));

    // Nothing speaks about an image that is no part of an index.
    let alone = source(&format!("docker-image://{}", registry.reference("app:image")), &[]);
    let alone = look_up(&build, alone, Some(ask(true, &[PROVENANCE]))).await.image.unwrap();
    assert!(alone.attestation_chain.is_none());
    build.finish().await;
}
