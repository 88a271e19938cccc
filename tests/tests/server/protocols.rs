//! One port, many ways to speak to it: Connect with JSON, gRPC and gRPC-Web, over HTTP/1.1 and HTTP/2, with and without TLS.

use cofferdam_tests::http::request;
use cofferdam_tests::{Client, Outcome, Server};
use serde_json::Value;

const METHOD: &str = "depot.core.v1.OrganizationService/ListOrganizations";

fn curl(url: &str, token: &str) -> Client {
    Client::new("curl")
        .args("--silent --show-error --max-time 20 --output - --write-out %{stderr}%{http_version}:%{http_code} -X POST")
        .arg("-H")
        .arg(format!("Authorization: Bearer {token}"))
        .arg(format!("{url}/{METHOD}"))
}

fn json(client: Client) -> Client {
    client.args("--data {} -H Content-Type:application/json")
}

fn assert_organizations(outcome: &Outcome, version: &str) {
    assert_eq!(outcome.stderr, format!("{version}:200"), "{}", outcome.text());
    assert_eq!(outcome.json()["organizations"][0]["name"], "default");
}

#[test]
fn json_over_every_version_of_http() {
    let server = Server::secure();
    let (url, token) = (server.url(), server.token());
    assert_organizations(&json(curl(&url, token)).args("--http1.1").success(), "1.1");
    assert_organizations(&json(curl(&url, token)).args("--http2-prior-knowledge").success(), "2");
    let secure = format!("https://localhost:{}", server.port());
    let trusting =
        |flag: &str| json(curl(&secure, token)).args(flag).arg("--cacert").arg(server.authority());
    assert_organizations(&trusting("--http2").success(), "2");
    assert_organizations(&trusting("--http1.1").success(), "1.1");
    // A certificate of an authority that nobody knows is not believed by chance.
    assert_ne!(json(curl(&secure, token)).run().code, Some(0));
}

#[test]
fn grpc_has_its_status_in_trailers() {
    let server = Server::start();
    let call = |token: &str| {
        let client = curl(&server.url(), token);
        // An empty message: no compression, no bytes.
        let body = client.file("body", "\0\0\0\0\0");
        client
            .args("--http2-prior-knowledge -H Content-Type:application/grpc -H TE:trailers --dump-header /dev/stderr --data-binary")
            .arg(format!("@{}", body.display()))
            .success()
    };
    let answer = call(server.token());
    assert!(answer.stderr.contains("grpc-status: 0"), "{}", answer.stderr);
    assert_eq!(answer.stdout[0], 0);
    assert!(answer.stdout.windows(7).any(|part| part == b"default"));
    let refused = call("nobody's");
    assert!(refused.stderr.contains("grpc-status: 16"), "{}", refused.stderr);
}

#[test]
fn grpc_web_has_its_status_in_the_body() {
    let server = Server::start();
    let call = |token: &str| {
        let authorization = format!("Bearer {token}");
        let headers = [
            ("Content-Type", "application/grpc-web+proto"),
            ("X-Grpc-Web", "1"),
            ("Authorization", &*authorization),
        ];
        request("POST", &format!("{}/{METHOD}", server.url()), &headers, &[0; 5])
    };
    let answer = call(server.token());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/grpc-web+proto"));
    let (message, trailers) = frames(&answer.body);
    assert!(message.windows(7).any(|part| part == b"default"));
    assert!(trailers.replace(' ', "").contains("grpc-status:0"), "{trailers}");
    let refused = call("nobody's");
    let told = refused.header("grpc-status").map_or_else(|| frames(&refused.body).1, str::to_owned);
    assert!(told.contains("16"), "{told}");
}

/// The messages of a gRPC-Web answer put together, and its trailers.
fn frames(mut body: &[u8]) -> (Vec<u8>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while let [flags, a, b, c, d, rest @ ..] = body {
        let (frame, others) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if flags & 0x80 == 0 {
            messages.extend_from_slice(frame);
        } else {
            trailers.push_str(&String::from_utf8_lossy(frame));
        }
        body = others;
    }
    assert!(body.is_empty(), "half a frame: {body:?}");
    (messages, trailers)
}

#[test]
fn what_is_no_call_is_answered_with_a_message() {
    let server = Server::start();
    let authorization = format!("Bearer {}", server.token());
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        request(method, &format!("{}/{path}", server.url()), headers, body)
    };
    let json = ("Content-Type", "application/json");
    let authorized = ("Authorization", &*authorization);
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    assert_eq!(ask("POST", METHOD, &[json], b"{}").status, 401);
    let missing: Value = serde_json::from_slice(&ask("POST", METHOD, &[json], b"{}").body).unwrap();
    assert_eq!(missing["code"], "unauthenticated");
    assert!(missing["message"].as_str().unwrap().len() > 10, "{missing}");
    assert_eq!(ask("POST", METHOD, &[authorized], b"{}").status, 415);
    assert_eq!(ask("POST", METHOD, &[authorized, json], b"{").status, 400);
    assert_eq!(ask("GET", METHOD, &[authorized], b"").status, 405);
    let unknown =
        ask("POST", "depot.core.v1.ProjectService/NoSuchThing", &[authorized, json], b"{}");
    assert!([404, 501].contains(&unknown.status), "{}", unknown.status);
    assert_eq!(ask("POST", METHOD, &[("Authorization", "Bearer "), json], b"{}").status, 401);
}

#[test]
fn page_tokens_and_arguments_that_make_no_sense_are_told_apart() {
    let server = Server::start();
    let project = server.project("pages");
    let list = |message: Value| server.call("depot.core.v1.BuildService/ListBuilds", &message);
    let id = &project.id;
    for token in ["x", "AAAA", "../../etc/passwd", "eyJ2IjoxfQ", "' OR 1=1 --"] {
        let answer = list(serde_json::json!({ "projectId": id, "pageToken": token }));
        assert_eq!(answer.code(), "invalid_argument", "{token}");
    }
    assert_eq!(
        list(serde_json::json!({ "projectId": id, "pageSize": -1 })).code(),
        "invalid_argument"
    );
    assert_eq!(list(serde_json::json!({ "projectId": "0000000000" })).code(), "not_found");
    let _ = list(serde_json::json!({ "projectId": id, "pageSize": 100_000 })).ok();
    let _ = list(serde_json::json!({ "projectId": id, "pageToken": "" })).ok();
}

#[test]
fn pages_of_projects_are_complete_and_end() {
    let server = Server::start();
    let mut made: Vec<String> = (0..5).map(|n| server.project(&format!("p{n}")).id).collect();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let message = serde_json::json!({ "pageSize": 2, "pageToken": token });
        let page = server.call("depot.core.v1.ProjectService/ListProjects", &message).ok();
        let projects = page["projects"].as_array().unwrap();
        seen.extend(
            projects.iter().map(|project| project["projectId"].as_str().unwrap().to_owned()),
        );
        token = page["nextPageToken"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    made.reverse();
    assert_eq!(seen, made, "newest first, each once");
}

#[test]
fn clients_that_know_no_pages_see_their_projects() {
    let server = Server::start();
    for number in 0..60 {
        let message = serde_json::json!({ "name": format!("p{number}") });
        let _ = server.call("depot.core.v1.ProjectService/CreateProject", &message).ok();
    }
    let method = "depot.core.v1.ProjectService/ListProjects";
    let listed = server.call(method, &serde_json::json!({})).ok();
    assert_eq!(listed["projects"].as_array().unwrap().len(), 60);
    let shown = server.depot().args("projects list").success().text();
    assert_eq!((0..60).filter(|number| shown.contains(&format!("p{number}"))).count(), 60);
}
