//! BuildKit's control API, spoken by a client that is not ours: `bollard`, whose stubs, session and services are its own.

use std::io::Write;

use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput, SecretSource};
use bollard::grpc::driver::{
    Build as _, Export as _, Image as _, ImageExporterEnum, buildkitd::BuildkitDaemon,
};
use bollard::grpc::export::ImageExporterOutput;
use bollard::grpc::registry::ImageRegistryOutput;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{
    DiskUsageRequest, InfoRequest, ListWorkersRequest, PruneRequest, SolveRequest, StatusRequest,
};
use cofferdam_tests::{Builder, Image, Registry, images};
use tonic::transport::{Channel, Endpoint};

fn endpoint(builder: &Builder) -> Endpoint {
    Endpoint::from_shared(builder.address()).unwrap()
}

async fn control(builder: &Builder) -> ControlClient<Channel> {
    ControlClient::new(endpoint(builder).connect().await.unwrap())
}

/// A context as this client sends it: a packed archive over its upload service.
fn upload(files: &[(&str, &str)]) -> ImageBuildLoadInput {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar.into_inner().unwrap()).unwrap();
    ImageBuildLoadInput::Upload(gzip.finish().unwrap().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_builds_and_receives_an_archive() {
    let builder = Builder::plain();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("image.tar");
    let secret = out.path().join("secret");
    std::fs::write(&secret, "of the foreign client").unwrap();
    let dockerfile = format!(
        "FROM {}\nARG GIVEN\nCOPY file /file\nRUN --mount=type=secret,id=s echo \"$GIVEN $(wc -c < /run/secrets/s)\" > /out\n",
        images::busybox()
    );
    let options = ImageBuildFrontendOptions::builder()
        .buildarg("GIVEN", "given")
        .label("from", "bollard")
        .set_secret("s", &SecretSource::File(secret))
        .build();
    let request = ImageExporterOutput::builder("docker.io/library/foreign:latest")
        .oci_mediatypes(true)
        .dest(&file);
    BuildkitDaemon::new(endpoint(&builder))
        .export(
            ImageExporterEnum::OCI(request),
            options,
            upload(&[("Dockerfile", &dockerfile), ("file", "content")]),
            None,
            None,
        )
        .await
        .unwrap();
    let image = Image::from_oci_archive(&file);
    assert_eq!(image.text("file"), "content");
    assert_eq!(image.text("out"), "given 21\n");
    assert_eq!(image.setting("Labels")["from"], "bollard");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_pushes_and_gets_errors() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let output =
        ImageRegistryOutput::builder(&registry.reference("foreign:1")).push(true).consume();
    let dockerfile = format!("FROM {}\nRUN echo pushed > /out\n", images::busybox());
    BuildkitDaemon::new(endpoint(&builder))
        .registry(
            output,
            ImageBuildFrontendOptions::default(),
            upload(&[("Dockerfile", &dockerfile)]),
            None,
            None,
        )
        .await
        .unwrap();
    assert_eq!(registry.pull("foreign", "1").text("out"), "pushed\n");
    let failing = format!("FROM {}\nRUN exit 7\n", images::busybox());
    let error = BuildkitDaemon::new(endpoint(&builder))
        .docker_build(
            "x",
            ImageBuildFrontendOptions::default(),
            upload(&[("Dockerfile", &failing)]),
            None,
            None,
        )
        .await
        .unwrap_err();
    assert!(format!("{error:?}").contains("exit code: 7"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_version_are_told() {
    let builder = Builder::plain();
    let mut client = control(&builder).await;
    let info = client.info(InfoRequest {}).await.unwrap().into_inner();
    let version = info.buildkit_version.unwrap();
    assert!(!version.version.is_empty() && !version.package.is_empty(), "{version:?}");
    let workers = client
        .list_workers(ListWorkersRequest { filter: vec![] })
        .await
        .unwrap()
        .into_inner()
        .record;
    assert_eq!(workers.len(), 1);
    assert!(!workers[0].id.is_empty() && !workers[0].platforms.is_empty());
    let platform = &workers[0].platforms[0];
    assert_eq!(
        (platform.os.as_str(), platform.architecture.as_str()),
        ("linux", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_usage_grows_with_builds_and_pruning_empties_it() {
    let builder = Builder::plain();
    let context = cofferdam_tests::Context::dockerfile(
        "FROM @busybox\nRUN dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null\nRUN --mount=type=cache,target=/c touch /c/x\n",
    );
    let _ = builder.build(&context).run().success();
    let mut client = control(&builder).await;
    let records = client.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record;
    assert!(records.iter().any(|record| record.size >= 3 << 20), "{records:?}");
    assert!(
        records.iter().any(|record| record.record_type == "exec.cachemount" && record.mutable),
        "{records:?}"
    );
    let request = PruneRequest { all: true, ..PruneRequest::default() };
    let mut pruned = client.prune(request).await.unwrap().into_inner();
    let mut count = 0;
    while pruned.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, records.len());
    let left = client.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record;
    assert!(left.is_empty(), "{left:?}");
    assert!(
        !builder.build(&context).run().success().ran().is_empty(),
        "nothing is cached any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_and_harm_nobody() {
    let builder = Builder::plain();
    let mut client = control(&builder).await;
    let refused = [
        SolveRequest {
            r#ref: "a".into(),
            frontend: "no.such.frontend".into(),
            ..SolveRequest::default()
        },
        SolveRequest {
            r#ref: "b".into(),
            frontend: "dockerfile.v0".into(),
            session: "nobody".into(),
            ..SolveRequest::default()
        },
        SolveRequest {
            r#ref: "c".into(),
            definition: Some(bollard_buildkit_proto::pb::Definition {
                def: vec![vec![0xff; 64]],
                ..Default::default()
            }),
            ..SolveRequest::default()
        },
        SolveRequest {
            r#ref: "d".into(),
            frontend: String::new(),
            exporter_deprecated: "nowhere".into(),
            ..SolveRequest::default()
        },
    ];
    for request in refused {
        let name = request.r#ref.clone();
        let error = client
            .solve(request)
            .await
            .err()
            .unwrap_or_else(|| panic!("request {name} was accepted"));
        assert!(!error.message().is_empty(), "{name}: {error:?}");
    }
    let unknown = client.status(StatusRequest { r#ref: "unknown".into() }).await;
    let ended = match unknown {
        Err(_) => true,
        Ok(stream) => {
            tokio::time::timeout(std::time::Duration::from_secs(10), stream.into_inner().message())
                .await
                .is_ok()
        }
    };
    assert!(ended, "the status of an unknown build does not hang");
    drop(client);
    assert!(builder.image("FROM scratch\nENV A=1\n").env().contains(&"A=1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_served() {
    use bollard_buildkit_proto::health::HealthCheckRequest;
    use bollard_buildkit_proto::health::health_client::HealthClient;
    let builder = Builder::plain();
    let mut client = HealthClient::new(endpoint(&builder).connect().await.unwrap());
    let answer =
        client.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status, 1, "SERVING");
}
