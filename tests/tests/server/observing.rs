//! What an operator sees of builds: figures, messages and traces, with the ids that belong there and nothing of what tenants say.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use cofferdam_tests::http::{self, Response};
use cofferdam_tests::{Context, Data, Project, Server, digest, program, repository};
use prost::Message;
use serde_json::{Value, json};

/// Secrets of the builds, and what their steps print: the Dockerfiles say it differently.
const SECRET: &str = "swordfish-of-the-observer";
const PRINTED: &str = "42-was-printed";
/// Part of every project's name and of names of steps.
const TENANT: &str = "tenantish";

/// How long messages and spans may be on their way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages of builders that are about connections are there too.
const TALKATIVE: &str = "[builder.log]\nlevel = \"info\"\n";

fn start(config: &str) -> Server {
    let mut command = Command::new(program());
    command.env("COFFERDAM_LOG_FORMAT", "json");
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        command.env_remove(name);
    }
    Server::start_as(Data::new(), config, command)
}

/// What `find` finds, as soon as it does.
fn wait_for<T>(server: &Server, what: &str, find: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Figures by name and labels, as Prometheus reads them.
#[derive(Debug)]
struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn of(server: &Server) -> Self {
        let response = server.get("/metrics");
        assert_eq!(response.status, 200);
        let text = String::from_utf8(response.body).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let pairs = lines.map(|line| line.rsplit_once(' ').unwrap());
        Self(pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    fn of_name(&self, name: &str) -> f64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// The sum over all values of the label.
    fn all(&self, name: &str) -> f64 {
        let labelled = format!("{name}{{");
        let own = self.0.iter().filter(|(key, _)| *key == name || key.starts_with(&labelled));
        own.map(|(_, value)| value).sum()
    }
}

/// How much a figure moved.
fn moved(before: &Figures, after: &Figures, name: &str) -> u64 {
    let by = after.of_name(name) - before.of_name(name);
    assert!(by >= 0.0 && by.fract() == 0.0, "{name} moved by {by}");
    by as u64
}

/// Names with their labels' names, as the documentation lists them.
fn documented() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("docs/server.md")).unwrap();
    let block = text.split("<!-- metrics:begin -->").nth(1).unwrap();
    let block = block.split("<!-- metrics:end -->").next().unwrap();
    let names = block.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

/// What a line of figures is called in the documentation.
fn as_documented(line: &str) -> String {
    let (name, labels) = line.split_once('{').unwrap_or((line, ""));
    let own = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
    let own: Vec<&str> = own.map(|(name, _)| name).filter(|name| *name != "le").collect();
    let suffix = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
    let name = suffix.filter(|name| name.ends_with("_seconds")).unwrap_or(name);
    match own.first() {
        Some(label) => format!("{name}{{{label}}}"),
        None => name.to_owned(),
    }
}

/// Every message of the log. What is no object was printed for people on standard output.
fn messages(server: &Server) -> Vec<Value> {
    let log = server.log();
    // The last line may be half written.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let objects = whole.lines().filter(|line| line.starts_with('{'));
    objects.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// What the server says itself, or a builder by way of it.
fn says(message: &Value, text: &str) -> bool {
    let of = if message["message"] == "a builder says" { "said" } else { "message" };
    message[of].as_str().is_some_and(|said| said.contains(text))
}

/// The id of the newest build, which has ended.
fn newest(server: &Server, project: &Project) -> String {
    let id = server.newest_id(project);
    let _ = server.ended(&id, PATIENCE);
    id
}

/// A build that ends well, the same again, one that fails, and one that is refused a connection; all of them with a secret. Gives
/// their ids.
fn four_builds(server: &Server, project: &Project) -> [String; 4] {
    let run = |command: &str, succeeds: bool| {
        let context = Context::dockerfile(&format!(
            "FROM @busybox\nRUN --mount=type=secret,id=s : {TENANT}; {command}\n"
        ));
        let build = server.build(project, &context).args("--secret id=s,env=PLANTED");
        let outcome = build.env("PLANTED", SECRET).run();
        assert_eq!(outcome.code == Some(0), succeeds, "{}", outcome.stderr);
        newest(server, project)
    };
    let print = "echo $((6 * 7))-was-printed";
    [
        run(print, true),
        run(print, true),
        run(&format!("{print}; exit 7"), false),
        run("nc -w 3 169.254.169.254 80 </dev/null; true", true),
    ]
}

/// Steps of all builds by how they ended, as the API tells it: cached, failed, executed.
fn steps(server: &Server, project: &Project, builds: &[String]) -> (u64, u64, u64) {
    let (mut cached, mut failed, mut executed) = (0, 0, 0);
    for step in builds.iter().flat_map(|build| server.steps(project, build)) {
        match (&step["error"], step["cacheState"].as_str()) {
            (error, _) if !error.is_null() => failed += 1,
            (_, Some("CACHE_STATE_CACHED")) => cached += 1,
            _ if step["completedAt"].is_null() => {}
            _ => executed += 1,
        }
    }
    (cached, failed, executed)
}

#[test]
fn figures_follow_what_is_built() {
    let server = start("");
    let project = server.project(&format!("{TENANT}-figures"));
    let before = Figures::of(&server);
    assert_eq!(before.all("cofferdam_builds_begun_total"), 0.0, "all are there from the beginning");
    let method = "depot.core.v1.ProjectService/ListProjects";
    assert_eq!(server.call_as("nobody's", method, &json!({})).code(), "unauthenticated");
    let builds = four_builds(&server, &project);
    let after = wait_for(&server, "all builds are counted", || {
        let figures = Figures::of(&server);
        (figures.all("cofferdam_builds_ended_total") >= 4.0).then_some(figures)
    });
    let by = |name: &str| moved(&before, &after, name);

    assert_eq!(by("cofferdam_builds_begun_total"), 4);
    assert_eq!(by("cofferdam_builds_ended_total{status=\"success\"}"), 3);
    assert_eq!(by("cofferdam_builds_ended_total{status=\"failed\"}"), 1);
    assert_eq!(by("cofferdam_build_seconds_count{status=\"success\"}"), 3);
    assert_eq!(after.all("cofferdam_builds"), 0.0, "none is left");
    assert_eq!(after.of_name("cofferdam_builds_running"), 0.0);

    let (cached, failed, executed) = steps(&server, &project, &builds);
    assert!(cached > 0 && failed == 1 && executed > 0, "control");
    assert_eq!(by("cofferdam_steps_total{result=\"cached\"}"), cached);
    assert_eq!(by("cofferdam_steps_total{result=\"failed\"}"), failed);
    assert_eq!(by("cofferdam_steps_total{result=\"executed\"}"), executed);
    assert_eq!(by("cofferdam_step_seconds_count{result=\"executed\"}"), executed);
    assert_eq!(by("cofferdam_cache_lookups_total{result=\"hit\"}"), cached);
    assert_eq!(by("cofferdam_cache_lookups_total{result=\"miss\"}"), failed + executed);
    assert_eq!(by("cofferdam_cache_saved_seconds_count"), cached);

    assert_eq!(by("cofferdam_builder_starts_total{result=\"started\"}"), 1);
    assert_eq!(by("cofferdam_builder_start_seconds_count"), 1);
    assert_eq!(by("cofferdam_queue_seconds_count"), 1, "nobody had to wait for the others");
    assert_eq!(after.of_name("cofferdam_builders_running"), 1.0);
    assert_eq!(after.of_name("cofferdam_queue_length"), 0.0);
    assert!(by("cofferdam_builder_connections_total") >= 4);

    assert!(by("cofferdam_egress_connections_total{verdict=\"refused\"}") >= 1);
    assert!(by("cofferdam_egress_connections_total{verdict=\"allowed\"}") >= 1, "the base image");
    assert!(by("cofferdam_egress_bytes_total{direction=\"received\"}") > 0);
    assert_eq!(by("cofferdam_api_calls_total{code=\"unauthenticated\"}"), 1);
    assert!(by("cofferdam_api_calls_total{code=\"ok\"}") >= 8);
    assert_eq!(after.all("cofferdam_errors_total"), 0.0, "{after:?}");
    assert!(after.of_name("process_resident_memory_bytes") > 0.0);
}

#[test]
fn figures_are_those_of_the_list_and_name_nobody() {
    let server = start("");
    let project = server.project(&format!("{TENANT}-names"));
    let builds = four_builds(&server, &project);
    let figures = Figures::of(&server);
    let found: BTreeSet<String> = figures.0.keys().map(|line| as_documented(line)).collect();
    assert_eq!(found, documented());
    let steps = server.steps(&project, &builds[0]);
    let digests = steps.iter().map(|step| step["digest"].as_str().unwrap().to_owned());
    let unwanted = [TENANT, "busybox", "169.254", SECRET, &project.id, &project.token];
    let unwanted = unwanted.map(str::to_owned).into_iter().chain(builds).chain(digests);
    for word in unwanted {
        assert!(!figures.0.keys().any(|line| line.contains(&word)), "{word}: {figures:?}");
    }
}

#[test]
fn messages_say_which_build_and_step_they_are_about() {
    let server = start(TALKATIVE);
    let project = server.project(&format!("{TENANT}-messages"));
    let builds = four_builds(&server, &project);
    let find = |build: &str, text: &str| {
        wait_for(&server, &format!("{text:?} of {build}"), || {
            let about = |message: &Value| message["build"] == build && says(message, text);
            messages(&server).into_iter().find(about)
        })
    };
    for build in &builds {
        for text in ["a build began", "a build ended"] {
            let message = find(build, text);
            assert_eq!(message["project"], project.id, "{message}");
            assert!(message["timestamp"].is_string() && message["level"] == "INFO", "{message}");
        }
    }
    let digest_of = |build: &str, wanted: &dyn Fn(&Value) -> bool| {
        let steps = server.steps(&project, build);
        let found = steps.iter().find(|step| wanted(step)).unwrap_or_else(|| panic!("{steps:?}"));
        found["digest"].clone()
    };
    let failed = digest_of(&builds[2], &|step| !step["error"].is_null());
    let connects = |step: &Value| step["name"].as_str().unwrap().contains("nc -w");
    let connecting = digest_of(&builds[3], &connects);
    for (build, text, step) in [
        (&builds[2], "a step failed", &failed),
        (&builds[3], "connections were refused", &connecting),
    ] {
        let message = find(build, text);
        assert_eq!(message["project"], project.id, "{message}");
        assert_eq!(&message["step"], step, "{message}");
    }
    // What the builder itself said.
    let message = find(&builds[2], "build failed");
    assert_eq!(message["project"], project.id);
    let refused = wait_for(&server, "the builder's word of the connection", || {
        let about =
            |message: &Value| says(message, "connection") && says(message, "169.254.169.254");
        messages(&server).into_iter().find(about)
    });
    assert_eq!((&refused["build"], &refused["step"]), (&json!(builds[3]), &connecting));

    for message in messages(&server) {
        let names = |word: &str| message.to_string().contains(word);
        let about = builds.iter().find(|build| names(build));
        assert_eq!(about.map(String::as_str), message["build"].as_str(), "{message}");
        assert!(about.is_none() || message["project"] == project.id, "{message}");
        let secret = digest(SECRET.as_bytes());
        for word in [SECRET, &secret, PRINTED, server.token(), &project.token] {
            assert!(!names(word), "{message}");
        }
    }
}

/// What a collector is sent, as far as it matters here.
#[derive(Clone, PartialEq, Message)]
struct Traced {
    #[prost(message, repeated, tag = "1")]
    of_resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    of_scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Pair>,
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
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn attribute<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a str> {
    let pair = pairs.iter().find(|pair| pair.key == key)?;
    pair.value.as_ref().map(|value| value.text.as_str())
}

/// Spans that came so far, each with what is said of where it comes from.
fn spans(collector: &http::Server) -> Vec<(Vec<Pair>, Span)> {
    let mut all = Vec::new();
    for request in collector.seen() {
        assert_eq!(request.path, "/v1/traces");
        for of_resource in Traced::decode(&*request.body).unwrap().of_resources {
            let resource = of_resource.resource.unwrap_or_default().attributes;
            let own = of_resource.of_scopes.into_iter().flat_map(|of_scope| of_scope.spans);
            all.extend(own.map(|span| (resource.clone(), span)));
        }
    }
    all
}

#[test]
fn a_build_is_one_trace_of_server_and_builder() {
    let collector = http::Server::start(|_| Response::ok(""));
    let server = start(&format!(
        "[builder.otel]\nendpoint = \"http://{}\"\nprotocol = \"http/protobuf\"\n",
        collector.address()
    ));
    let project = server.project(&format!("{TENANT}-traces"));
    let context = Context::dockerfile(&format!(
        "FROM @busybox\nRUN --mount=type=secret,id=s : {TENANT}; wc -c /run/secrets/s\n"
    ));
    let build = server.build(&project, &context).args("--secret id=s,env=PLANTED");
    let _ = build.env("PLANTED", SECRET).run().success();
    let id = newest(&server, &project);

    let named = |name: &str| {
        wait_for(&server, &format!("a span {name:?}"), || {
            spans(&collector).into_iter().find(|(_, span)| span.name == name)
        })
    };
    let (_, whole) = named("build");
    assert!(whole.parent.is_empty(), "it is the root");
    assert_eq!(attribute(&whole.attributes, "cofferdam.build"), Some(id.as_str()));
    assert_eq!(attribute(&whole.attributes, "cofferdam.project"), Some(project.id.as_str()));
    assert_eq!(attribute(&whole.attributes, "cofferdam.status"), Some("success"));
    for name in ["start the builder", "connection"] {
        let (_, span) = named(name);
        assert_eq!((&span.trace, &span.parent), (&whole.trace, &whole.id), "{name}");
    }
    let (builder, solve) = named("moby.buildkit.v1.Control/Solve");
    assert_eq!((&solve.trace, &solve.parent), (&whole.trace, &whole.id));
    assert_eq!(attribute(&builder, "cofferdam.project"), Some(project.id.as_str()));
    assert_eq!(attribute(&solve.attributes, "cofferdam.build"), Some(id.as_str()));
    let step = spans(&collector).into_iter().map(|(_, span)| span);
    let step = step.filter(|span| span.parent == solve.id).find(|span| span.name.contains(TENANT));
    let step = step.unwrap_or_else(|| panic!("no step: {:?}", spans(&collector)));
    assert_eq!(step.trace, whole.trace);
    let vertex = attribute(&step.attributes, "vertex").unwrap();
    assert!(server.steps(&project, &id).iter().any(|step| step["digest"] == vertex), "{vertex}");
    let said = collector.seen().into_iter().flat_map(|request| request.body).collect::<Vec<u8>>();
    assert!(!String::from_utf8_lossy(&said).contains(SECRET));
}
