//! Strangers, wrong tokens, and requests no client sends.

use axum::body::Body;

use crate::fixture::{Image, sha256};
use crate::http1::{raw, send};
use crate::server::{OWNER, READER, STRANGER, Server, WRITER, basic};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_to_log_in() {
    let server = Server::start().await;
    let digest = sha256(b"x");
    let project = &server.project;
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("GET", "/v2".to_owned()),
        ("GET", "/v2/_catalog".to_owned()),
        ("GET", format!("/v2/{project}/tags/list")),
        ("GET", format!("/v2/{project}/manifests/latest")),
        ("HEAD", format!("/v2/{project}/blobs/{digest}")),
        ("GET", format!("/v2/{project}/referrers/{digest}")),
        ("POST", format!("/v2/{project}/blobs/uploads/")),
        ("PUT", format!("/v2/{project}/manifests/latest")),
        ("DELETE", format!("/v2/{project}/manifests/latest")),
        ("GET", "/v2/bcdfghjklm/tags/list".to_owned()),
        ("GET", "/v2/NO/tags/list".to_owned()),
        ("GET", "/v2/nothing".to_owned()),
    ] {
        let wrong = basic("x-token", "wrong");
        for headers in
            [&[][..], &[("authorization", "Bearer ")], &[("authorization", wrong.as_str())]]
        {
            let reply = send(server.addr, method, &path, headers, Body::empty()).await.expect(401);
            assert!(reply.header("www-authenticate").starts_with("Basic realm="), "{path}");
            assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
            if method != "HEAD" {
                assert_eq!(reply.code(), "UNAUTHORIZED");
            }
        }
    }
    let password = basic("x-token", OWNER);
    for authorization in [password.as_str(), &format!("Bearer {OWNER}")] {
        let headers = [("authorization", authorization)];
        send(server.addr, "GET", "/v2/", &headers, Body::empty()).await.expect(200);
    }
}

/// Every request to a project that is not the caller's has the answer of one that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_is_missing() {
    let server = Server::start().await;
    let image = Image::new("foreign", 10);
    let digest = server.push("/app", &image, "v1").await;
    let layer = sha256(&image.layer);
    for (method, below) in [
        ("GET", "/app/tags/list".to_owned()),
        ("GET", "/app/manifests/v1".to_owned()),
        ("GET", format!("/app/manifests/{digest}")),
        ("GET", format!("/app/blobs/{layer}")),
        ("GET", format!("/app/referrers/{digest}")),
        ("POST", "/app/blobs/uploads/".to_owned()),
        ("POST", format!("/app/blobs/uploads/?mount={layer}")),
        ("PUT", "/app/manifests/v1".to_owned()),
        ("DELETE", "/app/manifests/v1".to_owned()),
        ("DELETE", format!("/app/blobs/{layer}")),
        ("PATCH", "/app/manifests/v1".to_owned()),
    ] {
        let foreign = format!("/v2/{}{below}", server.project);
        let missing = format!("/v2/bcdfghjklm{below}");
        let foreign =
            server.ask_as(STRANGER, method, &foreign, &[], Body::empty()).await.expect(404);
        let missing =
            server.ask_as(STRANGER, method, &missing, &[], Body::empty()).await.expect(404);
        assert_eq!(foreign.code(), "NAME_UNKNOWN");
        assert_eq!(foreign.body, missing.body);
        let names = |reply: &crate::http1::Reply| {
            let mut names: Vec<_> = reply.headers.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&foreign), names(&missing));
    }
    server.get("/app/manifests/v1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_do_what_they_may() {
    let server = Server::start().await;
    let image = Image::new("rights", 10);
    let digest = server.push("/app", &image, "v1").await;
    let layer = sha256(&image.layer);
    let project = &server.project;
    for (token, method, below, status) in [
        (READER, "GET", "/app/manifests/v1".to_owned(), 200),
        (READER, "GET", format!("/app/blobs/{layer}"), 200),
        (READER, "POST", "/app/blobs/uploads/".to_owned(), 403),
        (READER, "PUT", "/app/manifests/v2".to_owned(), 403),
        (READER, "DELETE", "/app/manifests/v1".to_owned(), 403),
        (WRITER, "POST", "/app/blobs/uploads/".to_owned(), 202),
        (WRITER, "DELETE", "/app/manifests/v1".to_owned(), 403),
        (WRITER, "DELETE", format!("/app/manifests/{digest}"), 403),
        (WRITER, "DELETE", format!("/app/blobs/{layer}"), 403),
        (OWNER, "DELETE", format!("/app/manifests/{digest}"), 202),
    ] {
        let path = format!("/v2/{project}{below}");
        let reply = server.ask_as(token, method, &path, &[], Body::empty()).await.expect(status);
        if status == 403 {
            assert_eq!(reply.code(), "DENIED");
            assert!(reply.json()["errors"][0]["message"].as_str().unwrap().contains("token"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_lead_nowhere() {
    let server = Server::start().await;
    let project = &server.project;
    let long = "a".repeat(300);
    let digest = sha256(b"x");
    let hex = digest.strip_prefix("sha256:").unwrap();
    for (path, code) in [
        (format!("/v2/{project}/../{project}/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}/%2e%2e/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}%2f..%2f{}/tags/list", server.other), "NAME_INVALID"),
        (format!("/v2/{project}//tags/list"), "NAME_INVALID"),
        ("/v2//tags/list".to_owned(), "NAME_INVALID"),
        (format!("/v2/{project}/App/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}/{long}/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}/a%00b/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}/a%zz/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}/a%ff/tags/list"), "NAME_INVALID"),
        (format!("/v2/{project}/app/blobs/sha256:{}", hex.to_uppercase()), "DIGEST_INVALID"),
        (format!("/v2/{project}/app/blobs/sha256:{}", &hex[1..]), "DIGEST_INVALID"),
        (format!("/v2/{project}/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd"), "NAME_INVALID"),
        (format!("/v2/{project}/app/blobs/sha1:{hex}"), "DIGEST_INVALID"),
        (format!("/v2/{project}/app/blobs/{long}"), "DIGEST_INVALID"),
        (format!("/v2/{project}/app/manifests/{long}"), "MANIFEST_INVALID"),
        (format!("/v2/{project}/app/manifests/-x"), "MANIFEST_INVALID"),
        (format!("/v2/{project}/app/manifests/sha256:x"), "DIGEST_INVALID"),
    ] {
        let reply = server.ask_as(OWNER, "GET", &path, &[], Body::empty()).await.expect(400);
        assert_eq!(reply.code(), code, "{path}");
    }
    for path in [format!("/v2/{project}"), format!("/v2/{project}/nothing"), "/v2/x/y/z".to_owned()]
    {
        server.ask_as(OWNER, "GET", &path, &[], Body::empty()).await.expect(404);
    }
    let reply = server.ask_as(OWNER, "GET", "/v2/_catalog", &[], Body::empty()).await.expect(405);
    assert_eq!(reply.code(), "UNSUPPORTED");
    server
        .ask_as(OWNER, "POST", &format!("/v2/{project}/tags/list"), &[], Body::empty())
        .await
        .expect(405);
    server
        .ask_as(OWNER, "PUT", &format!("/v2/{project}/blobs/{digest}"), &[], Body::empty())
        .await
        .expect(405);
    server
        .ask_as(OWNER, "GET", &format!("/v2/{project}/blobs/uploads/"), &[], Body::empty())
        .await
        .expect(405);
    let query = format!("/v2/{project}/tags/list?x={}", "y".repeat(9000));
    server.ask_as(OWNER, "GET", &query, &[], Body::empty()).await.expect(400);
    assert!(server.files("").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_requests_do_not_hurt() {
    let server = Server::start().await;
    for request in [
        "GET /v2/\u{0}/tags/list HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /v2/é/tags/list HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
        format!(
            "GET /v2/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
            "a".repeat(1 << 20)
        ),
        format!(
            "POST /v2/{}/blobs/uploads/ HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWNER}\r\n\
             content-length: 99999999999999999999\r\n\r\n",
            server.project
        ),
        format!(
            "PUT /v2/{}/manifests/x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWNER}\r\n\
             transfer-encoding: chunked\r\n\r\nzz\r\n",
            server.project
        ),
    ] {
        let answer = raw(server.addr, request.as_bytes()).await;
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{answer}");
    }
    server.push("", &Image::new("after", 10), "v1").await;
}
