//! Frontends that are images: this test's own program, in an image, is one.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::os::fd::{FromRawFd, OwnedFd};
use std::task::{Context as Waker, Poll};

use bollard_buildkit_proto::moby::buildkit::v1::frontend as wire;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use bollard_buildkit_proto::pb;
use cofferdam_tests::{Builder, Context, digest, images};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::json;
use tokio::io::{Join, join};
use tokio::net::unix::pipe;
use tonic::codegen::Service;
use tonic::transport::Endpoint;

/// The standard streams, as a connection that can be made once.
struct Streams(Option<Join<pipe::Receiver, pipe::Sender>>);

impl Service<tonic::codegen::http::Uri> for Streams {
    type Response = TokioIo<Join<pipe::Receiver, pipe::Sender>>;
    type Error = std::io::Error;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Waker<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::codegen::http::Uri) -> Self::Future {
        ready(
            self.0.take().map(TokioIo::new).ok_or_else(|| std::io::ErrorKind::NotConnected.into()),
        )
    }
}

/// What the image executes: descriptor 3 is what standard output was, since the test's harness writes there.
#[test]
#[ignore = "run by the other tests, inside an image"]
fn acts_as_a_frontend() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(frontend());
}

async fn frontend() {
    // SAFETY: nobody else in this process uses either.
    let (input, output) = unsafe { (OwnedFd::from_raw_fd(0), OwnedFd::from_raw_fd(3)) };
    let streams = join(
        pipe::Receiver::from_owned_fd(input).unwrap(),
        pipe::Sender::from_owned_fd(output).unwrap(),
    );
    let channel = Endpoint::from_static("http://builder")
        .connect_with_connector(Streams(Some(streams)))
        .await
        .unwrap();
    let mut client = LlbBridgeClient::new(channel);
    let pong = client.ping(wire::PingRequest {}).await.unwrap().into_inner();
    assert!(pong.frontend_api_caps.iter().any(|cap| cap.id == "return"));
    let options: BTreeMap<String, String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"))
        .filter_map(|(_, value)| value.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())))
        .collect();
    match options.get("build-arg:MODE").map(String::as_str) {
        Some("fail") => {
            eprintln!("it does not want to");
            std::process::exit(3);
        }
        Some("silent") => return,
        _ => {}
    }
    let devices = std::fs::read_to_string("/proc/net/dev").unwrap();
    let mut facts: Vec<String> =
        options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    facts.extend(
        devices
            .lines()
            .filter_map(|line| Some(format!("device {}", line.split_once(':')?.0.trim()))),
    );
    facts.extend(std::env::vars().map(|(name, _)| format!("variable {name}")));
    // Naming another build changes nothing.
    let foreign = options.get("build-arg:FOREIGN").cloned().unwrap_or_default();
    let mut request = tonic::Request::new(wire::ReadFileRequest {
        r#ref: foreign,
        file_path: "/secret".into(),
        ..Default::default()
    });
    request.metadata_mut().insert("buildkit-controlapi-buildid", "foreign".parse().unwrap());
    let read = client.read_file(request).await;
    facts.push(format!("foreign {:?}", read.map(|_| ()).map_err(|status| status.code())));
    let request = wire::SolveRequest {
        definition: Some(file("facts", &facts.join("\n"))),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    };
    let result = client.solve(request).await.unwrap().into_inner().result;
    client.r#return(wire::ReturnRequest { result, ..Default::default() }).await.unwrap();
}

/// The graph of one file.
fn file(name: &str, content: &str) -> pb::Definition {
    let mkfile = pb::FileActionMkFile {
        path: format!("/{name}"),
        mode: 0o644,
        data: content.as_bytes().to_vec(),
        timestamp: -1,
        ..Default::default()
    };
    let action = pb::FileAction {
        input: -1,
        secondary_input: -1,
        output: 0,
        action: Some(pb::file_action::Action::Mkfile(mkfile)),
    };
    let op = pb::op::Op::File(pb::FileOp { actions: vec![action] });
    let op = pb::Op { op: Some(op), ..Default::default() }.encode_to_vec();
    let inputs = vec![pb::Input { digest: digest(&op), index: 0 }];
    let last = pb::Op { inputs, ..Default::default() }.encode_to_vec();
    pb::Definition { def: vec![op, last], ..Default::default() }
}

/// An image with this program, what it is linked with, and a shell.
fn image() -> String {
    let (layer, mut config) = images::parts("busybox");
    let mut tar = tar::Builder::new(Vec::new());
    tar.sparse(false);
    tar.append_path_with_name(std::env::current_exe().unwrap(), "frontend").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libraries: std::collections::BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .collect();
    for path in libraries {
        let name = path.trim_start_matches('/').trim_start_matches("usr/");
        tar.append_path_with_name(path, name).unwrap();
        if name.contains("/ld-linux") {
            let file = name.rsplit('/').next().unwrap();
            let interpreter = if cfg!(target_arch = "aarch64") { "lib" } else { "lib64" };
            tar.append_path_with_name(path, format!("{interpreter}/{file}")).unwrap();
        }
    }
    let tar = tar.into_inner().unwrap();
    config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(digest(&tar).into());
    let run = "exec 3>&1 1>/dev/null; exec /frontend image_frontend::acts_as_a_frontend --exact --ignored --nocapture";
    config["config"]["Entrypoint"] = json!(["sh", "-c", run]);
    let registry = images::registry();
    registry.push_image("frontend", "latest", &[layer, images::layer(&tar)], &config);
    registry.reference("frontend:latest")
}

#[test]
fn an_image_answers_in_place_of_the_built_in_frontend() {
    let frontend = image();
    let builder = Builder::plain();
    let text = format!("# syntax={frontend} with words\nwhat only that frontend reads\n");
    let context = Context::dockerfile(&text);
    let (outcome, out) = builder.build(&context).args("--build-arg MODE=work").local();
    let _ = outcome.success();
    let facts = std::fs::read_to_string(out.path().join("facts")).unwrap();
    for fact in [
        "build-arg:MODE=work",
        &format!("cmdline={frontend} with words"),
        "device lo",
        "foreign Err(NotFound)",
        "variable BUILDKIT_SESSION_ID",
        "variable BUILDKIT_WORKERS",
    ] {
        assert!(facts.lines().any(|line| line == fact), "{fact:?} is not in:\n{facts}");
    }
    assert!(!facts.contains("device eth0"), "no network without being asked for:\n{facts}");

    let failed = builder.build(&context).args("--build-arg MODE=fail").run().failure();
    assert!(failed.contains("it does not want to") && failed.contains("exit code: "), "{failed}");
    assert!(failed.contains("Dockerfile:1"), "{failed}");
    let silent = builder.build(&context).args("--build-arg MODE=silent").run().failure();
    assert!(silent.contains("without an answer"), "{silent}");
    assert!(builder.image("FROM scratch\nENV A=1\n").env().contains(&"A=1"));
}
