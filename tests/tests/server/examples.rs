//! The example programs: each follows a customer from the first day to the last and prints what it sees, all in the same words.

use std::path::Path;

use cofferdam_tests::{Client, Outcome, Server, images, program, repository, test_client};

/// Programs by their names: the clients, and the product's own.
fn path() -> std::ffi::OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let ours = [test_client("depot"), program()];
    let ours = ours.iter().map(|program| program.parent().unwrap().to_owned());
    std::env::join_paths(ours.chain(std::env::split_paths(&own))).unwrap()
}

fn with_server(client: Client, server: &Server) -> Client {
    client
        .env("DEPOT_API_URL", server.url())
        .env("DEPOT_NO_UPDATE_NOTIFIER", "1")
        .env("DEPOT_ERROR_TELEMETRY", "0")
        .env("DEPOT_TOKEN", server.token())
        .env("BASE_IMAGE", images::busybox())
        .env("PATH", path())
        .arg(repository().join("examples/hello"))
}

fn assert_life(server: &Server, outcome: &Outcome, name: &str) {
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("project ") && lines[0].ends_with(&format!("({name})")), "{text}");
    let builds: Vec<&&str> = lines.iter().filter(|line| line.starts_with("build ")).collect();
    assert_eq!(builds.len(), 2, "{text}");
    assert!(builds.iter().all(|build| build.contains(": success, ")), "{text}");
    assert!(builds[1].contains(": success, 0 of "), "the first build finds nothing: {text}");
    assert!(!builds[0].contains(": success, 0 of "), "the second one does: {text}");
    let run = lines.iter().position(|line| line.contains("RUN echo")).unwrap();
    assert!(lines[run].ends_with("  done"), "{text}");
    assert_eq!(lines[run + 1], "    | building for a customer", "{text}");
    assert_eq!(lines[lines.len() - 2..], ["reset", "deleted"], "{text}");
    let left =
        server.call("depot.core.v1.ProjectService/ListProjects", &serde_json::json!({})).ok();
    assert!(left["projects"].as_array().is_none_or(Vec::is_empty), "{left}");
}

#[test]
fn node() {
    // Over TLS of an authority that only these two variables make known.
    let server = Server::secure();
    let outcome = with_server(Client::node("examples/node/customer.mjs"), &server)
        .env("DEPOT_API_URL", format!("https://localhost:{}", server.port()))
        .env("NODE_EXTRA_CA_CERTS", server.authority())
        .env("SSL_CERT_FILE", server.authority())
        .success();
    assert_life(&server, &outcome, "customer-from-node");
}

#[test]
fn python() {
    let server = Server::secure();
    let authority = server.authority();
    let outcome = with_server(Client::python("examples/python/customer.py"), &server)
        .env("DEPOT_API_URL", format!("https://localhost:{}", server.port()))
        .env("DEPOT_API_TOKEN", server.token())
        .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", &authority)
        .env("SSL_CERT_FILE", &authority)
        .success();
    assert_life(&server, &outcome, "customer-from-python");
}

#[test]
fn go() {
    let server = Server::start();
    let client = Client::new(test_client("go"));
    // What was compiled once is kept: Go's own library takes a while.
    let cache = repository().join("target/test-clients/go-cache");
    let client = client
        .env("GOCACHE", cache)
        .env("GOFLAGS", "-mod=mod")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .within(&repository().join("examples/go"))
        .args("run .");
    let outcome = with_server(client, &server).success();
    assert_life(&server, &outcome, "customer-from-go");
}

#[test]
fn rust() {
    let server = Server::start();
    let example = built(&program());
    let outcome = with_server(Client::new(example), &server)
        .env("COFFERDAM_SERVER", server.url())
        .env("COFFERDAM_TOKEN", server.token())
        .success();
    assert_life(&server, &outcome, "customer-from-rust");
}

/// The example, which cargo put beside the product.
fn built(program: &Path) -> std::path::PathBuf {
    let example = program.with_file_name("customer");
    assert!(example.exists(), "build it first: cargo build -p cofferdam-example-customer");
    example
}
