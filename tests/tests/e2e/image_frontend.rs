//! Frontends that are images: this test's own program, in an image, is one. What it tries and must not get has a control that gets it.

use std::collections::{BTreeMap, HashMap};
use std::future::{Ready, ready};
use std::os::fd::{FromRawFd, OwnedFd};
use std::task::{Context as Waker, Poll};

use bollard_buildkit_proto::moby::buildkit::v1 as control;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
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
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Header that names a build.
const BUILD: &str = "buildkit-controlapi-buildid";
/// What opens a cache.
const KEY: &str = "a-key-that-opens-the-bucket";

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
        Some("tell") => {
            for (name, value) in std::env::vars().filter(|(name, _)| name != "BUILDKIT_WORKERS") {
                eprintln!("{name}={value}");
            }
            std::process::exit(3);
        }
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
    facts.extend(foreign(&mut client, &options).await);
    facts.extend(sizes(&mut client).await);
    let request = solving(file("facts", &facts.join("\n")));
    let result = client.solve(request).await.unwrap().into_inner().result;
    client.r#return(wire::ReturnRequest { result, ..Default::default() }).await.unwrap();
}

/// What reading a file of another build gives, that build named as its own client names it; and one of the frontend's own.
async fn foreign(
    client: &mut LlbBridgeClient<Channel>,
    options: &BTreeMap<String, String>,
) -> Vec<String> {
    let option = |name: &str| options.get(name).cloned().unwrap_or_default();
    let (owner, foreign) = (option("build-arg:OWNER"), option("build-arg:FOREIGN"));
    let own = named(client, None, file("secret", "its own")).await;
    let mut facts = Vec::new();
    for (what, reference) in [("foreign", foreign), ("own", own)] {
        let read = read(client, Some(&owner), &reference).await;
        facts.push(format!("{what} {:?}", read.map_err(|status| status.code())));
    }
    facts
}

/// What becomes of small and large messages.
async fn sizes(client: &mut LlbBridgeClient<Channel>) -> Vec<String> {
    let mut facts = Vec::new();
    for (what, size) in [("small", 1 << 20), ("large", 12 << 20)] {
        let mut request = solving(file("x", "x"));
        request.frontend_opt.insert("padding".to_owned(), "x".repeat(size));
        facts.push(format!("{what} {}", client.solve(request).await.is_ok()));
    }
    facts
}

fn solving(definition: pb::Definition) -> wire::SolveRequest {
    wire::SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..Default::default()
    }
}

fn of<T>(build: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(build) = build {
        request.metadata_mut().insert(BUILD, build.parse().unwrap());
    }
    request
}

/// The name of a graph's result.
async fn named(
    client: &mut LlbBridgeClient<Channel>,
    build: Option<&str>,
    definition: pb::Definition,
) -> String {
    let solved = client.solve(of(build, solving(definition))).await.unwrap().into_inner();
    match solved.result.and_then(|result| result.result) {
        Some(wire::result::Result::Ref(reference)) => reference.id,
        other => panic!("{other:?}"),
    }
}

async fn read(
    client: &mut LlbBridgeClient<Channel>,
    build: Option<&str>,
    reference: &str,
) -> Result<String, Status> {
    let request = wire::ReadFileRequest {
        r#ref: reference.to_owned(),
        file_path: "/secret".to_owned(),
        ..Default::default()
    };
    let read = client.read_file(of(build, request)).await?.into_inner();
    Ok(String::from_utf8(read.data).unwrap())
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

/// Another build of the same builder, with a result that is its own.
struct Owner {
    client: LlbBridgeClient<Channel>,
    solve: tokio::task::JoinHandle<Result<tonic::Response<control::SolveResponse>, Status>>,
    reference: String,
}

impl Owner {
    async fn begin(builder: &Builder) -> Self {
        let endpoint = Endpoint::from_shared(builder.address()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let request = control::SolveRequest { r#ref: "owner".to_owned(), ..Default::default() };
        let mut builds = ControlClient::new(channel.clone());
        let solve = tokio::spawn(async move { builds.solve(request).await });
        let mut client = LlbBridgeClient::new(channel);
        let reference = named(&mut client, Some("owner"), file("secret", "of its owner")).await;
        Self { client, solve, reference }
    }

    /// Ends it; until then its owner can read what is its own.
    async fn end(mut self) {
        let own = read(&mut self.client, Some("owner"), &self.reference).await.unwrap();
        assert_eq!(own, "of its owner", "control: the owner's own request");
        let result = Some(wire::Result::default());
        let request = wire::ReturnRequest { result, ..Default::default() };
        self.client.r#return(of(Some("owner"), request)).await.unwrap();
        self.solve.await.unwrap().unwrap();
    }
}

/// What a client is told whose build by that frontend fails.
async fn told(builder: &Builder, name: &str, attrs: &[(&str, &str)]) -> String {
    let endpoint = Endpoint::from_shared(builder.address()).unwrap();
    let mut client = ControlClient::new(endpoint.connect().await.unwrap());
    let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let request = control::SolveRequest {
        r#ref: name.to_owned(),
        frontend: "gateway.v0".to_owned(),
        frontend_attrs: attrs.collect::<HashMap<_, _>>(),
        ..Default::default()
    };
    client.solve(request).await.unwrap_err().message().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_not_told_what_opens_a_door() {
    let frontend = image();
    let builder = Builder::plain();
    let caches = format!(r#"[{{"Type":"s3","Attrs":{{"secret_access_key":"{KEY}"}}}}]"#);
    let attrs = [
        ("source", frontend.as_str()),
        ("build-arg:MODE", "tell"),
        ("cache-imports", caches.as_str()),
        ("cache-exports", caches.as_str()),
        ("context", "https://example.com/x.git"),
    ];
    let said = told(&builder, "caches", &attrs).await;
    assert!(said.contains("=build-arg:MODE=tell"), "control: other attributes arrive: {said}");
    assert!(said.contains("=context=https://example.com/x.git"), "control: {said}");
    assert!(!said.contains(KEY), "{said}");
    assert!(!said.contains("cache-imports") && !said.contains("cache-exports"), "{said}");

    let context = format!("https://user:{KEY}@example.com/x.git");
    let attrs =
        [("source", frontend.as_str()), ("build-arg:MODE", "tell"), ("context", context.as_str())];
    let said = told(&builder, "context", &attrs).await;
    assert!(said.contains("is not given"), "{said}");
    assert!(!said.contains(KEY) && !said.contains("MODE=tell"), "{said}");
}

#[test]
fn an_image_answers_in_place_of_the_built_in_frontend() {
    let frontend = image();
    let builder = Builder::plain();
    let text = format!("# syntax={frontend} with words\nwhat only that frontend reads\n");
    let context = Context::dockerfile(&text);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let owner = runtime.block_on(Owner::begin(&builder));
    let (outcome, out) = builder
        .build(&context)
        .args("--build-arg MODE=work --build-arg OWNER=owner --build-arg")
        .arg(format!("FOREIGN={}", owner.reference))
        .local();
    let _ = outcome.success();
    runtime.block_on(owner.end());
    let facts = std::fs::read_to_string(out.path().join("facts")).unwrap();
    for fact in [
        "build-arg:MODE=work",
        &format!("cmdline={frontend} with words"),
        "device lo",
        "foreign Err(NotFound)",
        "own Ok(\"its own\")",
        "small true",
        "large false",
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
