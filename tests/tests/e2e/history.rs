//! The history of builds, as BuildKit's clients read it: by a client that is not ours, and the daemon's content by another.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard_buildkit_proto::google::rpc::Status;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, Descriptor, DiskUsageRequest,
    SolveRequest, StatusRequest, StatusResponse, UpdateBuildHistoryRequest,
};
use bollard_buildkit_proto::pb::Definition;
use cofferdam_tests::{Builder, Context, Home, Options};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Streaming};
use tonic_prost::ProstCodec;

use crate::content::Content;

const STARTED: i32 = 0;
const COMPLETE: i32 = 1;
const DELETED: i32 = 2;

struct Client {
    control: ControlClient<Channel>,
    content: Content,
    channel: Channel,
}

/// What a client that traces sends, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
struct Traced {
    #[prost(message, repeated, tag = "1")]
    of_resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    of_scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Taken {}

impl Client {
    async fn of(builder: &Builder) -> Self {
        let endpoint = Endpoint::from_shared(builder.address()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let control = ControlClient::new(channel.clone());
        Self { control, content: Content::new(channel.clone()), channel }
    }

    async fn listen(&mut self, request: BuildHistoryRequest) -> Streaming<BuildHistoryEvent> {
        let response = self.control.listen_build_history(request).await.unwrap();
        assert!(response.metadata().get("buildkit-current-timestamp").is_some());
        response.into_inner()
    }

    /// Everything a listener is told who does not stay.
    async fn list(&mut self, request: BuildHistoryRequest) -> Vec<BuildHistoryEvent> {
        let request = BuildHistoryRequest { early_exit: true, ..request };
        let mut events = self.listen(request).await;
        let mut all = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            all.push(event);
        }
        all
    }

    async fn refs(&mut self, request: BuildHistoryRequest) -> Vec<String> {
        let events = self.list(request).await;
        events.into_iter().map(|event| event.record.unwrap().r#ref).collect()
    }

    /// The one record there is.
    async fn only(&mut self) -> BuildHistoryRecord {
        let events = self.list(BuildHistoryRequest::default()).await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].r#type, COMPLETE);
        events[0].record.clone().unwrap()
    }

    async fn update(&mut self, request: UpdateBuildHistoryRequest) {
        self.control.update_build_history(request).await.unwrap();
    }

    async fn delete(&mut self, reference: &str) {
        let reference = reference.to_owned();
        self.update(UpdateBuildHistoryRequest {
            r#ref: reference,
            delete: true,
            ..Default::default()
        })
        .await;
    }

    async fn read(&mut self, descriptor: &Descriptor) -> Vec<u8> {
        let bytes = self.content.read(&descriptor.digest).await.unwrap();
        assert_eq!(i64::try_from(bytes.len()).unwrap(), descriptor.size);
        bytes
    }

    /// Every digest whose content there is to be read.
    async fn readable(&mut self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for digest in self.content.list().await.into_keys() {
            if self.content.read(&digest).await.is_ok() {
                found.insert(digest);
            }
        }
        found
    }

    async fn finalize(&mut self, reference: &str) {
        let reference = reference.to_owned();
        self.update(UpdateBuildHistoryRequest {
            r#ref: reference,
            finalize: true,
            ..Default::default()
        })
        .await;
    }

    /// Sends a span of a trace whose id is sixteen times this byte.
    async fn trace(&mut self, id: u8, name: &str) {
        let span = Span { trace: vec![id; 16], id: vec![1; 8], name: name.to_owned() };
        let of_scopes = vec![OfScope { spans: vec![span] }];
        let request = Request::new(Traced { of_resources: vec![OfResource { of_scopes }] });
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let codec: ProstCodec<Traced, Taken> = ProstCodec::default();
        let mut service = Grpc::new(self.channel.clone());
        service.ready().await.unwrap();
        let taken = service.unary(request, PathAndQuery::from_static(path), codec).await;
        let _: Response<Taken> = taken.unwrap();
    }

    /// A build that makes nothing.
    async fn build_nothing(&mut self, reference: &str) {
        let request = SolveRequest {
            r#ref: reference.to_owned(),
            definition: Some(Definition::default()),
            ..SolveRequest::default()
        };
        self.control.solve(request).await.unwrap();
    }

    async fn replay(&mut self, reference: &str) -> Vec<StatusResponse> {
        let request = StatusRequest { r#ref: reference.to_owned() };
        let mut stream = self.control.status(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            all.push(response);
        }
        all
    }
}

/// The frames of a stored status stream.
fn frames(mut bytes: &[u8]) -> Vec<StatusResponse> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        frames.push(StatusResponse::decode(&bytes[4..4 + length]).unwrap());
        bytes = &bytes[4 + length..];
    }
    frames
}

fn printed(responses: &[StatusResponse]) -> String {
    let logs = responses.iter().flat_map(|response| &response.logs);
    logs.map(|log| String::from_utf8_lossy(&log.msg).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_on_record_with_its_logs_and_trace() {
    let builder = Builder::plain();
    let context = Context::dockerfile("FROM @busybox\nRUN echo said by a step\n");
    let _ = builder
        .build(&context)
        .arg("--build-arg=URL=https://user:pass@example.com/")
        .run()
        .success();
    let mut client = Client::of(&builder).await;
    let record = client.only().await;
    assert_eq!(record.frontend, "dockerfile.v0");
    assert_eq!(record.frontend_attrs["build-arg:URL"], "https://xxxxx:xxxxx@example.com/");
    assert!(record.created_at.is_some() && record.completed_at.is_some() && record.error.is_none());
    assert!(record.num_total_steps >= 2, "{record:?}");
    assert_eq!(record.num_completed_steps, record.num_total_steps);
    let logs = record.logs.clone().unwrap();
    assert_eq!(logs.media_type, "application/vnd.buildkit.status.v0");
    let stored = frames(&client.read(&logs).await);
    assert!(printed(&stored).contains("said by a step"));
    assert_eq!(printed(&client.replay(&record.r#ref).await), printed(&stored));
    let trace = record.trace.clone().unwrap();
    let spans = String::from_utf8(client.read(&trace).await).unwrap();
    assert!(spans.contains("said by a step") && spans.contains("\"TraceID\""), "{spans}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_on_record_with_all_its_details() {
    let builder = Builder::plain();
    let context = Context::dockerfile("FROM scratch\nCOPY missing /here\n");
    let _ = builder.build(&context).run().failure();
    let mut client = Client::of(&builder).await;
    let record = client.only().await;
    let error = record.error.clone().unwrap();
    assert!(error.message.contains("/missing") && error.details.is_empty(), "{error:?}");
    let whole = record.external_error.clone().unwrap();
    assert_eq!(whole.media_type, "application/vnd.googeapis.google.rpc.status+proto");
    let whole = Status::decode(&client.read(&whole).await[..]).unwrap();
    assert_eq!((whole.code, &whole.message), (error.code, &error.message));
    let details: Vec<&str> = whole.details.iter().map(|detail| detail.type_url.as_str()).collect();
    for wanted in ["stack.Stack+json", "errdefs.Source+json", "errdefs.Vertex+json"] {
        assert!(details.iter().any(|url| url.ends_with(wanted)), "{wanted} in {details:?}");
    }
    let errors = BuildHistoryRequest { filter: vec!["status==error".into()], ..Default::default() };
    assert_eq!(client.refs(errors).await, [record.r#ref]);
    let fine =
        BuildHistoryRequest { filter: vec!["status==completed".into()], ..Default::default() };
    assert!(client.refs(fine).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_told_of_what_happens() {
    let builder = Builder::plain();
    let mut client = Client::of(&builder).await;
    // What a client asks to find out whether there is a history at all.
    let probe =
        BuildHistoryRequest { active_only: true, r#ref: "none".into(), ..Default::default() };
    assert!(client.list(probe).await.is_empty());
    let mut live = client.listen(BuildHistoryRequest::default()).await;
    for reference in ["first", "second", "third"] {
        client.build_nothing(reference).await;
        for kind in [STARTED, COMPLETE] {
            let event = live.message().await.unwrap().unwrap();
            assert_eq!(event.r#type, kind);
            assert_eq!(event.record.unwrap().r#ref, reference);
        }
    }
    client.delete("second").await;
    let event = live.message().await.unwrap().unwrap();
    assert_eq!((event.r#type, event.record.unwrap().r#ref), (DELETED, "second".to_owned()));
    assert_eq!(client.refs(BuildHistoryRequest::default()).await, ["first", "third"]);
    let newest = BuildHistoryRequest { limit: 1, ..Default::default() };
    assert_eq!(client.refs(newest).await, ["third"]);
    let one = BuildHistoryRequest { r#ref: "first".into(), ..Default::default() };
    assert_eq!(client.refs(one).await, ["first"]);
    let named = BuildHistoryRequest { filter: vec!["ref~=^th".into()], ..Default::default() };
    assert_eq!(client.refs(named).await, ["third"]);
    let nonsense = BuildHistoryRequest { filter: vec!["ref+x".into()], ..Default::default() };
    let mut answer = client.control.listen_build_history(nonsense).await.unwrap().into_inner();
    let refused = answer.message().await.unwrap_err();
    assert!(refused.message().contains("parse error"), "{refused:?}");
    let hidden = SolveRequest {
        r#ref: "hidden".into(),
        internal: true,
        definition: Some(Definition::default()),
        ..SolveRequest::default()
    };
    client.control.solve(hidden).await.unwrap();
    assert_eq!(client.refs(BuildHistoryRequest::default()).await, ["first", "third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_record_takes_its_content_along() {
    let builder = Builder::plain();
    let mut client = Client::of(&builder).await;
    client.build_nothing("gone").await;
    let record = client.only().await;
    let logs = record.logs.clone().unwrap();
    assert!(client.content.list().await.contains_key(&logs.digest));
    client.delete("gone").await;
    assert!(client.list(BuildHistoryRequest::default()).await.is_empty());
    assert_eq!(client.content.list().await, HashMap::new());
    let error = client.content.read(&logs.digest).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    // Deleting what is not there is no error, as in BuildKit.
    client.delete("gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_what_records_name_and_nothing_else() {
    let builder = Builder::plain();
    let _ = builder.image("FROM @busybox\nRUN echo x > /x\n");
    let mut client = Client::of(&builder).await;
    let record = client.only().await;
    let trace = record.trace.unwrap().digest;
    let all = client.content.list().await;
    let other = all.keys().filter(|digest| **digest != trace);
    let mut refused = 0;
    for digest in other {
        refused += usize::from(client.content.read(digest).await.is_err());
    }
    assert!(refused > 0, "layers are in the store and not for reading: {all:?}");
    assert!(client.content.read(&trace).await.is_ok());
    for nonsense in ["", "sha256:zz", "../../records", &format!("sha256:{}", "0".repeat(64))] {
        assert!(client.content.read(nonsense).await.is_err(), "{nonsense}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_a_restart_and_pins_keep_them() {
    let options = Options {
        config: "[history]\nmaxAge = 1\nmaxEntries = 1\n".to_owned(),
        ..Options::default()
    };
    let home = Home::new(&options);
    let builder = Builder::start_in(home, &options);
    let mut client = Client::of(&builder).await;
    for reference in ["pinned", "old", "new"] {
        client.build_nothing(reference).await;
    }
    let pin =
        UpdateBuildHistoryRequest { r#ref: "pinned".into(), pinned: true, ..Default::default() };
    client.update(pin).await;
    drop(client);
    let home = builder.stop();
    let builder = Builder::start_in(home, &options);
    let mut client = Client::of(&builder).await;
    // Those that are too old go when the builder looks, which it does when it starts and when a build was recorded.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    client.build_nothing("newest").await;
    let wanted = ["pinned".to_owned(), "newest".to_owned()];
    for _ in 0..100 {
        if client.refs(BuildHistoryRequest::default()).await == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(client.refs(BuildHistoryRequest::default()).await, wanted);
    let pinned = BuildHistoryRequest { r#ref: "pinned".into(), ..Default::default() };
    let pinned = client.list(pinned).await.remove(0).record.unwrap();
    assert!(pinned.pinned && pinned.generation == 1, "{pinned:?}");
    assert!(!client.read(&pinned.trace.unwrap()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_build_that_is_deleted_and_pruned() {
    let builder = Builder::plain();
    let _ = builder.image("FROM @busybox\nRUN echo x > /x\n");
    let mut client = Client::of(&builder).await;
    let reference = client.only().await.r#ref;
    client.delete(&reference).await;
    let request = bollard_buildkit_proto::moby::buildkit::v1::PruneRequest {
        all: true,
        ..Default::default()
    };
    let mut pruned = client.control.prune(Request::new(request)).await.unwrap().into_inner();
    while pruned.message().await.unwrap().is_some() {}
    let usage = client.control.disk_usage(DiskUsageRequest::default()).await.unwrap();
    assert!(usage.into_inner().record.is_empty());
    assert_eq!(client.content.list().await, HashMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_traces_is_on_record_when_it_is_finalized() {
    let builder = Builder::plain();
    let mut client = Client::of(&builder).await;
    let mut request = Request::new(SolveRequest {
        r#ref: "traced".to_owned(),
        definition: Some(Definition::default()),
        ..SolveRequest::default()
    });
    let parent = format!("00-{}-00f067aa0ba902b7-01", "07".repeat(16));
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    client.control.solve(request).await.unwrap();
    client.trace(7, "pull https://user:secret@example.com/x").await;
    client.trace(8, "of another trace").await;
    client.finalize("traced").await;
    let trace = client.only().await.trace.unwrap();
    let spans = String::from_utf8(client.read(&trace).await).unwrap();
    assert!(spans.contains("pull https://xxxxx:xxxxx@example.com/x"), "{spans}");
    assert!(!spans.contains("of another trace"), "{spans}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_an_image_keeps_all_its_content_when_it_is_pinned() {
    let builder = Builder::plain();
    let _ = builder.image("FROM @busybox\nRUN echo x > /x\n");
    let mut client = Client::of(&builder).await;
    let reference = client.only().await.r#ref;
    client.finalize(&reference).await;
    let record = client.only().await;
    let before = client.readable().await;
    let named = [record.logs.unwrap().digest, record.trace.unwrap().digest];
    assert!(named.iter().all(|digest| before.contains(digest)), "{before:?}");
    assert!(before.len() > named.len() + 1, "control: manifests and configs are kept: {before:?}");
    let pin = UpdateBuildHistoryRequest { r#ref: reference, pinned: true, ..Default::default() };
    client.update(pin).await;
    assert!(client.only().await.pinned);
    assert_eq!(client.readable().await, before);
}
