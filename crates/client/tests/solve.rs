//! A whole build against a small daemon made of the session's own daemon half.

#![allow(clippy::unwrap_used, missing_docs, refining_impl_trait)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cofferdam_client::{Client, Exporter, Solve, SolveError, SolveStatus};
use cofferdam_session::fsutil::{SendOptions, Source};
use cofferdam_session::{
    ExportTarget, LocalRequest, OutputTarget, SecretSource, SecretStore, Services, SessionManager,
};
use cofferdam_wire::moby::buildkit::v1::*;
use connectrpc::{
    ConnectError, ConnectRpcService, InboundStream, RequestContext, Response, Router,
    ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Daemon {
    sessions: Arc<SessionManager>,
    done: Arc<Notify>,
    dropped: Arc<Notify>,
}

struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

type Stream<T> = ServiceResult<ServiceStream<T>>;

impl Control for Daemon {
    async fn solve(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, SolveRequest>,
    ) -> ServiceResult<SolveResponse> {
        let request = request.to_owned_message();
        let session = self
            .sessions
            .get(&request.Session)
            .await
            .map_err(|error| ConnectError::not_found(error.to_string()))?;
        if request.Frontend == "hang" {
            let _dropped = OnDrop(self.dropped.clone());
            std::future::pending::<()>().await;
        }
        if request.Frontend == "fail" {
            self.done.notify_one();
            return Err(ConnectError::unknown("exit code: 1"));
        }
        let dir = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(dir.path()).unwrap().into();
        let local = LocalRequest { name: "context".into(), ..LocalRequest::default() };
        session.sync_local(local, open()).await.unwrap();
        let secret = session.get_secret("token").await.unwrap();
        std::fs::write(dir.path().join("secret-length"), secret.len().to_string()).unwrap();
        let source = Source { root: open(), under: None };
        session
            .send_tree(&ExportTarget::default(), vec![source], SendOptions::default())
            .await
            .unwrap();
        self.done.notify_one();
        let entry = ("exported".to_string(), request.Exporters[0].Type.clone());
        Response::ok(SolveResponse {
            ExporterResponse: [entry].into_iter().collect(),
            ..Default::default()
        })
    }

    async fn status(
        &self,
        _: RequestContext,
        request: ServiceRequest<'_, StatusRequest>,
    ) -> Stream<StatusResponse> {
        let name = format!("[1/1] for {}", request.Ref);
        let done = self.done.clone();
        let vertex = Vertex { digest: "sha256:a".into(), name, ..Default::default() };
        let first = StatusResponse { vertexes: vec![vertex.clone()], ..Default::default() };
        let last = StatusResponse { vertexes: vec![vertex], ..Default::default() };
        let stream = futures::stream::iter([Ok(first)]).chain(futures::stream::once(async move {
            done.notified().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(last)
        }));
        Response::ok(Box::pin(stream))
    }

    async fn session(
        &self,
        context: RequestContext,
        requests: InboundStream<BytesMessage>,
    ) -> Stream<BytesMessage> {
        let stream = self.sessions.open(context.headers(), requests).await;
        Response::ok(stream.map_err(|error| ConnectError::internal(error.to_string()))?)
    }

    async fn disk_usage(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, DiskUsageRequest>,
    ) -> ServiceResult<DiskUsageResponse> {
        Err(ConnectError::unimplemented(""))
    }

    async fn prune(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, PruneRequest>,
    ) -> Stream<UsageRecord> {
        Err(ConnectError::unimplemented(""))
    }

    async fn list_workers(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, ListWorkersRequest>,
    ) -> ServiceResult<ListWorkersResponse> {
        Err(ConnectError::unimplemented(""))
    }

    async fn info(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, InfoRequest>,
    ) -> ServiceResult<InfoResponse> {
        Err(ConnectError::unimplemented(""))
    }

    async fn listen_build_history(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, BuildHistoryRequest>,
    ) -> Stream<BuildHistoryEvent> {
        Err(ConnectError::unimplemented(""))
    }

    async fn update_build_history(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, UpdateBuildHistoryRequest>,
    ) -> ServiceResult<UpdateBuildHistoryResponse> {
        Err(ConnectError::unimplemented(""))
    }
}

async fn daemon(directory: &std::path::Path) -> (Client, Arc<Daemon>) {
    let daemon = Arc::new(Daemon::default());
    let path = directory.join("daemon.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let service = ConnectRpcService::new(Router::new().add_service(daemon.clone()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let client = Client::connect(&format!("unix://{}", path.display())).await.unwrap();
    (client, daemon)
}

async fn run(
    client: &Client,
    solve: Solve,
    cancel: CancellationToken,
) -> (Result<cofferdam_client::Solved, SolveError>, Vec<SolveStatus>) {
    let (events, mut received) = mpsc::unbounded_channel();
    let result = client.solve(solve, events, cancel).await;
    let mut all = Vec::new();
    while let Some(event) = received.recv().await {
        all.push(event);
    }
    (result, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_reads_and_writes_the_users_files() {
    let root = tempfile::tempdir().unwrap();
    let (context, out) = (root.path().join("context"), root.path().join("out"));
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("file"), "content").unwrap();
    let (client, daemon) = daemon(root.path()).await;
    let mut secrets = SecretStore::new();
    secrets.add("token", SecretSource::Value(vec![1; 42])).unwrap();
    let output = OutputTarget::Directory { path: out.clone(), mirror: false };
    let services =
        Services::new().directory("context", &context).secrets(secrets).output(0, output);
    let exporter = Exporter { kind: "local".into(), attrs: BTreeMap::new() };
    let solve =
        Solve { services, exporters: vec![exporter], reference: "r1".into(), ..Solve::default() };
    let (result, events) = run(&client, solve, CancellationToken::new()).await;
    let solved = result.unwrap();
    assert_eq!(solved.response["exported"], "local");
    assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), "content");
    assert_eq!(std::fs::read_to_string(out.join("secret-length")).unwrap(), "42");
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].vertexes[0].name, "[1/1] for r1");
    assert!(daemon.sessions.get("none-left").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_keep_their_status_and_their_last_messages() {
    let root = tempfile::tempdir().unwrap();
    let (client, _daemon) = daemon(root.path()).await;
    let solve = Solve { frontend: "fail".into(), ..Solve::default() };
    let (result, events) = run(&client, solve, CancellationToken::new()).await;
    assert_eq!(result.unwrap_err().to_string(), "failed to solve: exit code: 1");
    assert_eq!(events.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn canceling_reaches_the_daemon() {
    let root = tempfile::tempdir().unwrap();
    let (client, daemon) = daemon(root.path()).await;
    let cancel = CancellationToken::new();
    let soon = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        soon.cancel();
    });
    let solve = Solve { frontend: "hang".into(), ..Solve::default() };
    let (result, _) = run(&client, solve, cancel).await;
    assert!(matches!(result, Err(SolveError::Canceled)));
    tokio::time::timeout(Duration::from_secs(5), daemon.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_a_clear_error() {
    let root = tempfile::tempdir().unwrap();
    let address = format!("unix://{}/none", root.path().display());
    let error = Client::connect(&address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("connect to {address}"));
}
