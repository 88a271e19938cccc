//! The gateway as a client that drives its build uses it: containers with processes, what failed steps left, rules about sources.

use std::collections::HashMap;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1 as control;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as wire;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy::{Policy, Rule, Selector, Update};
use bollard_buildkit_proto::pb;
use cofferdam_tests::http::Server;
use cofferdam_tests::{Builder, digest, images};
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use wire::exec_message::Input;

/// A build that a client drives, for as long as this lives.
pub(super) struct Driven {
    channel: Channel,
    name: String,
    solve: tokio::task::JoinHandle<Result<tonic::Response<control::SolveResponse>, Status>>,
}

impl Driven {
    pub(super) async fn begin(builder: &Builder, name: &str, policy: Option<Policy>) -> Self {
        let endpoint = Endpoint::from_shared(builder.address()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut client = ControlClient::new(channel.clone());
        let request = control::SolveRequest {
            r#ref: name.to_owned(),
            source_policy: policy,
            ..Default::default()
        };
        let solve = tokio::spawn(async move { client.solve(request).await });
        Self { channel, name: name.to_owned(), solve }
    }

    pub(super) fn bridge(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::new(self.channel.clone())
    }

    pub(super) fn of<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("buildkit-controlapi-buildid", self.name.parse().unwrap());
        request
    }

    /// Names the result of a graph.
    pub(super) async fn solve(&self, definition: pb::Definition) -> Result<String, Status> {
        self.solve_under(definition, Vec::new()).await
    }

    async fn solve_under(
        &self,
        definition: pb::Definition,
        source_policies: Vec<Policy>,
    ) -> Result<String, Status> {
        let request = wire::SolveRequest {
            definition: Some(definition),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            source_policies,
            ..Default::default()
        };
        let response = self.bridge().solve(self.of(request)).await?.into_inner();
        match response.result.and_then(|result| result.result) {
            Some(wire::result::Result::Ref(reference)) => Ok(reference.id),
            other => panic!("{other:?}"),
        }
    }

    async fn container(&self, id: &str, mounts: Vec<Mount>) -> Result<(), Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<NewContainer, wire::NewContainerResponse>::default();
        let path = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer".parse().unwrap();
        let request = self.of(NewContainer { id: id.to_owned(), mounts });
        client.unary(request, path, codec).await.map(|_| ())
    }

    async fn release(&self, id: &str) -> Result<(), Status> {
        let request = wire::ReleaseContainerRequest { container_id: id.to_owned() };
        self.bridge().release_container(self.of(request)).await.map(|_| ())
    }

    async fn processes(&self) -> Processes {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        let replies = self.bridge().exec_process(self.of(stream)).await.unwrap().into_inner();
        Processes { sender, replies, known: HashMap::new() }
    }

    /// As when the client goes away.
    pub(super) fn leave(&self) {
        self.solve.abort();
    }

    pub(super) async fn finish(self) {
        let result = Some(wire::Result::default());
        let request = wire::ReturnRequest { result, ..Default::default() };
        self.bridge().r#return(self.of(request)).await.unwrap();
        self.solve.await.unwrap().unwrap();
    }
}

/// Processes on one stream.
struct Processes {
    sender: tokio::sync::mpsc::Sender<wire::ExecMessage>,
    replies: tonic::Streaming<wire::ExecMessage>,
    known: HashMap<String, Ended>,
}

impl Processes {
    async fn say(&self, process: &str, input: Input) {
        let message = wire::ExecMessage { process_id: process.to_owned(), input: Some(input) };
        self.sender.send(message).await.unwrap();
    }

    async fn start(&self, process: &str, container: &str, script: &str, tty: bool) {
        let meta = pb::Meta {
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            ..Default::default()
        };
        let init = wire::InitMessage {
            container_id: container.to_owned(),
            meta: Some(meta),
            fds: vec![0, 1, 2],
            tty,
            ..Default::default()
        };
        self.say(process, Input::Init(init)).await;
    }

    /// Starts a process and waits for its end.
    async fn run(&mut self, process: &str, container: &str, script: &str) -> Ended {
        self.start(process, container, script, false).await;
        self.end(process).await.unwrap()
    }

    /// Waits for the end of a process.
    async fn end(&mut self, process: &str) -> Result<Ended, Status> {
        loop {
            if self.known.get(process).is_some_and(|known| known.done) {
                return Ok(self.known.remove(process).unwrap());
            }
            let message = self.replies.message().await?.unwrap();
            let known = self.known.entry(message.process_id).or_default();
            match message.input.unwrap() {
                Input::File(file) => known.output.extend(file.data),
                Input::Exit(exit) => known.exit = Some(exit),
                Input::Done(_) => known.done = true,
                _ => {}
            }
        }
    }
}

/// What a process said and how it ended.
#[derive(Default)]
struct Ended {
    output: Vec<u8>,
    exit: Option<wire::ExitMessage>,
    done: bool,
}

impl Ended {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).replace('\r', "")
    }

    fn code(&self) -> u32 {
        self.exit.as_ref().unwrap().code
    }

    fn error(&self) -> String {
        self.exit.as_ref().unwrap().error.as_ref().unwrap().message.clone()
    }
}

/// The request with the field that `bollard`'s edition of the message does not have.
#[derive(Clone, PartialEq, Message)]
struct NewContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, repeated, tag = "2")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(string, tag = "3")]
    dest: String,
    #[prost(string, tag = "23")]
    result: String,
}

fn mount(dest: &str, result: &str) -> Mount {
    Mount { dest: dest.to_owned(), result: result.to_owned() }
}

/// A graph of ops that follow each other.
pub(super) fn graph(ops: Vec<pb::Op>) -> pb::Definition {
    let mut def: Vec<Vec<u8>> = Vec::new();
    for mut op in ops {
        if let Some(last) = def.last() {
            op.inputs = vec![pb::Input { digest: digest(last), index: 0 }];
        }
        def.push(op.encode_to_vec());
    }
    let inputs = vec![pb::Input { digest: digest(def.last().unwrap()), index: 0 }];
    def.push(pb::Op { inputs, ..Default::default() }.encode_to_vec());
    pb::Definition { def, ..Default::default() }
}

fn image(reference: &str) -> pb::Op {
    let identifier = format!("docker-image://{reference}");
    let source = pb::SourceOp { identifier, ..Default::default() };
    pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }
}

fn run(script: &str) -> pb::Op {
    let meta = pb::Meta {
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec![images::PATH.to_owned()],
        cwd: "/".to_owned(),
        ..Default::default()
    };
    let mounts = vec![pb::Mount { dest: "/".to_owned(), ..Default::default() }];
    let exec = pb::ExecOp { meta: Some(meta), mounts, ..Default::default() };
    pb::Op { op: Some(pb::op::Op::Exec(exec)), ..Default::default() }
}

/// There is one worker, so what a graph asks of it decides nothing, as with BuildKit's own daemon.
#[tokio::test(flavor = "multi_thread")]
async fn constraints_on_the_worker_are_taken() {
    let builder = Builder::plain();
    let build = Driven::begin(&builder, "constraints", None).await;
    let mut step = run("echo built > /out");
    step.constraints = Some(pb::WorkerConstraints { filter: vec!["none==here".to_owned()] });
    let root = build.solve(graph(vec![image(&images::busybox()), step])).await.unwrap();
    build.container("c", vec![mount("/", &root)]).await.unwrap();
    let read = build.processes().await.run("1", "c", "cat /out").await;
    assert_eq!((read.code(), read.text().as_str()), (0, "built\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_container_and_end_with_its_first() {
    let builder = Builder::plain();
    let build = Driven::begin(&builder, "containers", None).await;
    let root = build.solve(graph(vec![image(&images::busybox())])).await.unwrap();
    build.container("c", vec![mount("/", &root), mount("/empty", "")]).await.unwrap();
    let again = build.container("c", vec![mount("/", &root)]).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);

    let mut processes = build.processes().await;
    processes.start("1", "c", "echo first > /shared; hostname; cat; sleep 100", false).await;
    let data = wire::FdMessage { fd: 0, eof: true, data: b"said\n".to_vec() };
    processes.say("1", Input::File(data)).await;
    // That a process has started says nothing of how far it is: the second waits for the first's file.
    let look = "until test -s /shared; do sleep 0.01; done; \
        cat /shared; touch /empty/x; tr '\\0' ' ' < /proc/1/cmdline; exit 7";
    let second = processes.run("2", "c", look).await;
    let text = second.text();
    assert_eq!(second.code(), 7);
    assert!(text.starts_with("first\n") && text.contains("sleep 100"), "{text}");
    assert_eq!(second.error(), "exit code: 7");
    processes.start("3", "c", "sleep 100", false).await;

    processes
        .start(
            "4",
            "c",
            "while test \"$(stty size)\" != '31 77'; do :; done; tty; read x; echo got $x",
            true,
        )
        .await;
    processes.say("4", Input::Resize(wire::ResizeMessage { rows: 31, cols: 77 })).await;
    let line = wire::FdMessage { fd: 0, data: b"typed\n".to_vec(), ..Default::default() };
    processes.say("4", Input::File(line)).await;
    let fourth = processes.end("4").await.unwrap();
    assert!(
        fourth.text().starts_with("/dev/pts/") || fourth.text().contains("\n/dev/pts/"),
        "{}",
        fourth.text()
    );
    assert!(fourth.text().contains("got typed\n") && fourth.code() == 0, "{}", fourth.text());

    processes
        .start("5", "c", "trap 'exit 9' HUP; echo ready; while :; do sleep 0.1; done", false)
        .await;
    processes.say("5", Input::Signal(wire::SignalMessage { name: "HUP".to_owned() })).await;
    let fifth = processes.end("5").await.unwrap();
    // The signal may come before the trap, or before the shell is there at all.
    assert!(matches!(fifth.code(), 9 | 129 | 137), "{}", fifth.code());

    let kill = wire::SignalMessage { name: "KILL".to_owned() };
    processes.say("1", Input::Signal(kill)).await;
    let first = processes.end("1").await.unwrap();
    assert_eq!((first.code(), first.text().as_str()), (137, "buildkitsandbox\nsaid\n"));
    assert_eq!(processes.end("3").await.unwrap().code(), 137, "it ends with the first");
    let late = processes.run("6", "c", "true").await;
    assert_ne!(late.code(), 0);
    let error = build.release("c").await.unwrap_err();
    assert!(error.message().contains("exit code: "), "{error:?}");
    assert!(build.release("c").await.is_err());
    processes.start("7", "c", "true", false).await;
    assert_eq!(processes.end("7").await.err().unwrap().code(), Code::NotFound);
    build.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_the_walls_of_a_step_and_only_its_own_build() {
    let builder = Builder::plain();
    let build = Driven::begin(&builder, "walls", None).await;
    let root = build.solve(graph(vec![image(&images::busybox())])).await.unwrap();
    build.container("c", vec![mount("/", &root)]).await.unwrap();
    let mut processes = build.processes().await;
    processes.start("1", "c", "sleep 100", false).await;
    // What joins a container is held by the same walls as what began it.
    let seen = "grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status; ls /proc/self/fd; mkdir -p /mnt; \
        for c in 'mount -t tmpfs x /mnt' 'mknod /null c 1 3' 'unshare -m true' 'cat /proc/self/status'; do \
        if $c > /dev/null 2>&1; then echo \"can: $c\"; else echo \"cannot: $c\"; fi; done";
    let second = processes.run("2", "c", seen).await.text();
    assert!(second.contains("Seccomp:\t2") && second.contains("NoNewPrivs:\t1"), "{second}");
    assert!(!second.contains("CapEff:\t000001ff"), "{second}");
    for refused in ["mount", "mknod", "unshare"] {
        assert!(second.contains(&format!("cannot: {refused} ")), "{refused}: {second}");
    }
    assert!(second.contains("can: cat /proc/self/status"), "control: {second}");
    assert!(!second.lines().any(|line| line.parse::<u32>().is_ok_and(|fd| fd > 3)), "{second}");
    let insecure = wire::InitMessage {
        container_id: "c".to_owned(),
        meta: Some(pb::Meta { args: vec!["true".to_owned()], ..Default::default() }),
        security: pb::SecurityMode::Insecure.into(),
        ..Default::default()
    };
    processes.say("3", Input::Init(insecure)).await;
    let third = processes.end("3").await.unwrap();
    assert_eq!(third.code(), 255);
    assert!(third.error().contains("security.insecure is not allowed"), "{}", third.error());

    let other = Driven::begin(&builder, "other", None).await;
    assert!(other.container("d", vec![mount("/", &root)]).await.is_err(), "a foreign result");
    assert!(other.release("c").await.is_err(), "a foreign container");
    other.finish().await;
    drop(processes);
    let _ = build.release("c").await;
    build.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_step_left_can_be_looked_into() {
    let builder = Builder::plain();
    let build = Driven::begin(&builder, "remains", None).await;
    let failing = graph(vec![image(&images::busybox()), run("echo left > /here; exit 3")]);
    let error = build.solve(failing).await.unwrap_err();
    assert!(error.message().contains("exit code: 3"), "{error:?}");
    let details = bollard_buildkit_proto::google::rpc::Status::decode(error.details()).unwrap();
    let solve =
        details.details.iter().find(|detail| detail.type_url.ends_with("errdefs.Solve+json"));
    let solve = solve.unwrap_or_else(|| panic!("{:?}", details.details));
    let solve: serde_json::Value = serde_json::from_slice(&solve.value).unwrap();
    assert_eq!(solve["op"]["exec"]["meta"]["args"][0], "sh");
    let left = solve["mountIDs"][0].as_str().unwrap();
    build.container("c", vec![mount("/", left)]).await.unwrap();
    let mut processes = build.processes().await;
    assert_eq!(processes.run("1", "c", "cat /here").await.text(), "left\n");
    build.release("c").await.unwrap();
    build.finish().await;
}

fn rule(action: i32, identifier: &str, into: Option<&str>) -> Rule {
    let selector = Selector { identifier: identifier.to_owned(), ..Default::default() };
    let update = |into: &str| Update { identifier: into.to_owned(), ..Default::default() };
    Rule { action, selector: Some(selector), updates: into.map(update) }
}

/// What rules do, as the protocol counts it.
const ALLOW: i32 = 0;
const DENY: i32 = 1;
const CONVERT: i32 = 2;

fn policy(action: i32, identifier: &str) -> Policy {
    Policy { version: 1, rules: vec![rule(action, identifier, None)] }
}

/// The file in which build ops look for a graph.
const DEFINITION: &str = "buildkit.llb.definition";

/// A graph that comes out of a downloaded file.
pub(super) fn nested(url: String) -> pb::Definition {
    let attrs = [("http.filename".to_owned(), DEFINITION.to_owned())].into();
    let source = pb::SourceOp { identifier: url, attrs };
    let inputs = [(DEFINITION.to_owned(), pb::BuildInput { input: 0 })].into();
    let build = pb::BuildOp { builder: -1, inputs, ..Default::default() };
    let op = |op| pb::Op { op: Some(op), ..Default::default() };
    graph(vec![op(pb::op::Op::Source(source)), op(pb::op::Op::Build(build))])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_in_a_file_is_no_way_around_rules_and_cannot_need_itself() {
    let builder = Builder::plain();
    let directory = tempfile::tempdir().unwrap();
    let server = Server::files(directory.path());
    let serve = |name: &str, definition: &pb::Definition| {
        std::fs::write(directory.path().join(name), definition.encode_to_vec()).unwrap();
    };
    serve("plain", &graph(vec![image(&images::busybox())]));
    let (plain, own) = (nested(server.url("plain")), nested(server.url("own")));
    serve("own", &own);

    let build = Driven::begin(&builder, "nested", None).await;
    assert!(build.solve(plain.clone()).await.is_ok(), "control: without rules it is solved");
    let error = tokio::time::timeout(Duration::from_secs(60), build.solve(own)).await;
    let error = error.expect("it waits for itself").unwrap_err();
    assert!(error.message().contains("needs the op itself"), "{error:?}");
    let ruled = build.solve_under(plain.clone(), vec![policy(ALLOW, "*")]).await.unwrap_err();
    assert!(ruled.message().contains("a build op cannot be used under"), "{ruled:?}");
    build.finish().await;

    // What an earlier build got is not found by one with rules either.
    let build = Driven::begin(&builder, "ruled", Some(policy(DENY, "docker-image://*"))).await;
    assert!(build.solve(plain).await.is_err());
    build.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_judged_by_what_is_fetched_however_it_is_written() {
    let builder = Builder::plain();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "x").unwrap();
    let server = Server::files(directory.path());
    let download = |url: String| {
        let source = pb::SourceOp { identifier: url, ..Default::default() };
        graph(vec![pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }])
    };
    let build = Driven::begin(&builder, "written", None).await;
    let denied = || vec![policy(DENY, &server.url("file"))];
    for written in [
        server.url("file"),
        server.url("other/../file#fragment"),
        server.url("file").replace("http://", "http://user:password@"),
    ] {
        assert!(build.solve(download(written.clone())).await.is_ok(), "control: {written}");
        let error = build.solve_under(download(written.clone()), denied()).await.unwrap_err();
        assert!(error.message().contains("source denied by policy"), "{written}: {error:?}");
        assert!(!error.message().contains("password"), "{error:?}");
    }
    let other = format!("{}?other", server.url("file"));
    assert!(build.solve_under(download(other), denied()).await.is_ok());

    // An image in a client's store is asked about as such.
    let request = wire::ResolveImageConfigRequest {
        r#ref: format!("app@sha256:{}", "0".repeat(64)),
        resolver_type: 1,
        store_id: "store".to_owned(),
        source_policies: vec![policy(DENY, "oci-layout://*")],
        ..Default::default()
    };
    let error = build.bridge().resolve_image_config(build.of(request)).await.unwrap_err();
    assert!(error.message().contains("source denied by policy"), "{error:?}");
    build.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_which_sources_are_used() {
    let builder = Builder::plain();
    let busybox = images::busybox();
    let nowhere = busybox.replace("busybox", "nowhere");
    let source = format!("docker-image://{nowhere}");
    let convert = rule(CONVERT, &source, Some(&format!("docker-image://{busybox}")));
    let converted = Policy { version: 1, rules: vec![convert] };
    let build = Driven::begin(&builder, "converted", Some(converted)).await;
    let root = build.solve(graph(vec![image(&nowhere)])).await.unwrap();
    assert!(!root.is_empty());
    let request = wire::ResolveImageConfigRequest { r#ref: nowhere.clone(), ..Default::default() };
    let resolved = build.bridge().resolve_image_config(build.of(request)).await.unwrap();
    assert_eq!(resolved.into_inner().r#ref, busybox);
    // What one request brings counts on top, for that request.
    let deny = policy(DENY, "docker-image://*");
    let denied = build.solve_under(graph(vec![image(&nowhere)]), vec![deny.clone()]).await;
    assert!(denied.unwrap_err().message().contains("source denied by policy"));
    assert!(build.solve(graph(vec![image(&busybox)])).await.is_ok());
    build.finish().await;

    let build = Driven::begin(&builder, "denied", Some(deny)).await;
    let denied = build.solve(graph(vec![image(&busybox)])).await.unwrap_err();
    assert!(denied.message().contains("source denied by policy"), "{denied:?}");
    let request = wire::ResolveImageConfigRequest { r#ref: busybox, ..Default::default() };
    assert!(build.bridge().resolve_image_config(build.of(request)).await.is_err());
    build.finish().await;
}
