//! Graphs that come out of files, which several builds want at once.

use std::sync::Mutex;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::StatusRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::pb;
use cofferdam_tests::Builder;
use cofferdam_tests::http::{Response, Server};
use prost::Message;
use tonic::transport::Endpoint;

use super::gateway::{Driven, graph, nested};

fn download(url: String) -> pb::Definition {
    let source = pb::SourceOp { identifier: url, ..Default::default() };
    graph(vec![pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }])
}

/// Waits until a build waits for one of its steps.
async fn under_way(builder: &Builder, name: &str) {
    let endpoint = Endpoint::from_shared(builder.address()).unwrap();
    let mut client = ControlClient::new(endpoint.connect().await.unwrap());
    let request = StatusRequest { r#ref: name.to_owned() };
    let mut updates = client.status(request).await.unwrap().into_inner();
    loop {
        let update = updates.message().await.unwrap().expect("the build ended");
        let steps = &update.vertexes;
        if steps.iter().any(|step| step.started.is_some() && step.completed.is_none()) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_build_takes_no_graph_in_a_file_from_another() {
    let builder = Builder::plain();
    let (asked, mut wanted) = tokio::sync::mpsc::unbounded_channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(held);
    let slow = Server::start(move |_| {
        let _ = asked.send(());
        // Until the other end is dropped.
        let _ = held.lock().unwrap().recv();
        Response::ok("x")
    });
    let directory = tempfile::tempdir().unwrap();
    let inner = download(slow.url("file")).encode_to_vec();
    std::fs::write(directory.path().join("graph"), inner).unwrap();
    let files = Server::files(directory.path());
    let shared = nested(files.url("graph"));

    let first = Driven::begin(&builder, "first", None).await;
    let second = Driven::begin(&builder, "second", None).await;
    let leaving = async {
        let left = first.solve(shared.clone()).await;
        drop(release);
        left
    };
    let staying = async {
        // By then the graph is solved for the first build alone.
        wanted.recv().await.unwrap();
        let end = async {
            under_way(&builder, "second").await;
            first.leave();
        };
        tokio::join!(second.solve(shared.clone()), end).0
    };
    let both = async { tokio::join!(leaving, staying) };
    let (left, stayed) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(left.is_err(), "control: it was cancelled");
    assert!(stayed.is_ok(), "{stayed:?}");
    second.finish().await;
}
