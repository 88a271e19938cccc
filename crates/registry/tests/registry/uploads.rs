//! Uploads in pieces: interruption and resumption, order, limits, restarts.

use std::time::Duration;

use axum::body::Body;
use cofferdam_registry::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{noise, sha256, sha512};
use crate::http1::{Reply, try_send};
use crate::server::{OWNER, STRANGER, Server, WRITER};

async fn start(server: &Server, query: &str) -> String {
    let path = format!("/app/blobs/uploads/{query}");
    let reply =
        server.ask("POST", &path, &[("content-length", "0")], Body::empty()).await.expect(202);
    assert_eq!(reply.header("range"), "0-0");
    reply.header("location").to_owned()
}

async fn patch(server: &Server, location: &str, range: &str, bytes: &[u8]) -> Reply {
    let headers = [("content-range", range)];
    let headers = if range.is_empty() { &[][..] } else { &headers[..] };
    server.ask_as(OWNER, "PATCH", location, headers, bytes.to_vec()).await
}

async fn put(server: &Server, location: &str, digest: &str, bytes: &[u8]) -> Reply {
    server.ask_as(OWNER, "PUT", &format!("{location}?digest={digest}"), &[], bytes.to_vec()).await
}

/// Sends the head of a PATCH that announces `length` bytes, and some of them, on a connection
/// that is handed back open.
async fn half_a_patch(
    server: &Server,
    location: &str,
    length: usize,
    bytes: &[u8],
) -> tokio::net::TcpStream {
    let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWNER}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

async fn status(server: &Server, location: &str) -> Reply {
    server.ask_as(OWNER, "GET", location, &[], Body::empty()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_make_a_blob() {
    let server = Server::start().await;
    let content = noise("chunks", 2_500_000);
    let digest = sha256(&content);
    let location = start(&server, "").await;
    let reply = patch(&server, &location, "0-999999", &content[..1_000_000]).await.expect(202);
    assert_eq!(reply.header("range"), "0-999999");
    assert_eq!(reply.header("location"), location);
    let reply = status(&server, &location).await.expect(204);
    assert_eq!((reply.header("range"), reply.header("location")), ("0-999999", location.as_str()));
    patch(&server, &location, "", &content[1_000_000..2_000_000]).await.expect(202);
    let reply = put(&server, &location, &digest, &content[2_000_000..]).await.expect(201);
    assert_eq!(reply.header("location"), format!("/v2/{}/app/blobs/{digest}", server.project));
    assert_eq!(server.get(&format!("/app/blobs/{digest}")).await.expect(200).body, content);
    for reply in [status(&server, &location).await, put(&server, &location, &digest, b"").await] {
        assert_eq!(reply.expect(404).code(), "BLOB_UPLOAD_UNKNOWN");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_out_of_order_are_refused_and_the_upload_goes_on() {
    let server = Server::start().await;
    let location = start(&server, "").await;
    let reply = patch(&server, &location, "3-5", b"345").await.expect(416);
    assert_eq!(reply.code(), "BLOB_UPLOAD_INVALID");
    patch(&server, &location, "0-2", b"012").await.expect(202);
    for range in ["0-2", "2-4", "4-6", "bytes 3-5/9", "x", "5-3"] {
        let reply = patch(&server, &location, range, b"345").await.expect(416);
        assert_eq!(
            (reply.header("range"), reply.header("location")),
            ("0-2", location.as_str()),
            "{range}"
        );
    }
    let reply = patch(&server, &location, "3-9", b"345").await.expect(400);
    assert_eq!(reply.code(), "SIZE_INVALID");
    patch(&server, &location, "3-5", b"345").await.expect(202);
    let digest = sha256(b"012345678");
    let path = format!("{location}?digest={digest}");
    let headers = [("content-range", "5-7")];
    server.ask_as(OWNER, "PUT", &path, &headers, "678").await.expect(416);
    let headers = [("content-range", "6-8")];
    server.ask_as(OWNER, "PUT", &path, &headers, "678").await.expect(201);
    assert_eq!(server.get(&format!("/app/blobs/{digest}")).await.expect(200).body, b"012345678");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_chunk_goes_on_where_it_broke() {
    let server = Server::start().await;
    let content = noise("interrupted", 4 << 20);
    let location = start(&server, "").await;
    let stream = half_a_patch(&server, &location, content.len(), &content[..3 << 20]).await;
    drop(stream);
    // The break shows once the server has read all that was sent.
    let mut received = 0;
    for _ in 0..100 {
        let range = status(&server, &location).await.expect(204).header("range").to_owned();
        received = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        if received == 3 << 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(received, 3 << 20);
    let range = format!("{received}-{}", content.len() - 1);
    patch(&server, &location, &range, &content[received..]).await.expect(202);
    let digest = sha256(&content);
    put(&server, &location, &digest, b"").await.expect(201);
    assert_eq!(server.get(&format!("/app/blobs/{digest}")).await.expect(200).body, content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_request_takes_over_from_one_that_hangs() {
    let server = Server::start().await;
    let location = start(&server, "").await;
    let mut hanging = half_a_patch(&server, &location, 100, b"0123").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let range = status(&server, &location).await.expect(204).header("range").to_owned();
    assert_eq!(range, "0-0", "what one request sent counts when it is written");
    patch(&server, &location, "0-5", b"abcdef").await.expect(202);
    let mut answer = String::new();
    let _ = hanging.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    put(&server, &location, &sha256(b"abcdef"), b"").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_ends_the_upload() {
    let server = Server::start().await;
    let location = start(&server, "").await;
    patch(&server, &location, "0-4", b"wrong").await.expect(202);
    assert_eq!(server.files("uploads").len(), 1);
    let reply = put(&server, &location, &sha256(b"right"), b"").await.expect(400);
    assert_eq!(reply.code(), "DIGEST_INVALID");
    status(&server, &location).await.expect(404);
    assert!(server.files("").is_empty());
    for digest in ["", "x", "sha256:zz", "md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let location = start(&server, "").await;
        assert_eq!(put(&server, &location, digest, b"").await.expect(400).code(), "DIGEST_INVALID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_algorithm_may_be_told_before_or_after() {
    let server = Server::start().await;
    let digest = sha512(b"content");
    for query in ["?digest-algorithm=sha512", ""] {
        let location = start(&server, query).await;
        patch(&server, &location, "0-3", b"cont").await.expect(202);
        put(&server, &location, &digest, b"ent").await.expect(201);
        assert_eq!(server.get(&format!("/app/blobs/{digest}")).await.expect(200).body, b"content");
    }
    let location = start(&server, "?digest-algorithm=sha512").await;
    put(&server, &location, &sha256(b"content"), b"content").await.expect(201);
    let path = "/app/blobs/uploads/?digest-algorithm=md5";
    server.ask("POST", path, &[], Body::empty()).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_its_repositorys_own() {
    let server = Server::start().await;
    let location = start(&server, "").await;
    let id = location.rsplit_once('/').unwrap().1;
    for path in [
        format!("/v2/{}/other/blobs/uploads/{id}", server.project),
        format!("/v2/{}/app/blobs/uploads/01234567-89ab-4def-8123-456789abcdef", server.project),
        format!("/v2/{}/app/blobs/uploads/..", server.project),
    ] {
        let reply = server.ask_as(OWNER, "PATCH", &path, &[], "x").await.expect(404);
        assert_eq!(reply.code(), "BLOB_UPLOAD_UNKNOWN");
    }
    let path = format!("/v2/{}/app/blobs/uploads/{id}", server.other);
    server.ask_as(STRANGER, "PATCH", &path, &[], "x").await.expect(404);
    server.ask_as(STRANGER, "PATCH", &location, &[], "x").await.expect(404);
    // Giving up is part of a push, not the right to delete.
    server.ask_as(WRITER, "DELETE", &location, &[], Body::empty()).await.expect(204);
    server.ask_as(WRITER, "DELETE", &location, &[], Body::empty()).await.expect(404);
    assert!(server.files("").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_bounded() {
    let limits = Limits { blob_bytes: 100_000, uploads_per_project: 2, ..Limits::default() };
    let server = Server::with(limits).await;
    let big = noise("big", 100_001);
    let path = format!("/app/blobs/uploads/?digest={}", sha256(&big));
    // The answer may come before the body was read.
    let authorization = format!("Bearer {OWNER}");
    let headers = [("authorization", authorization.as_str())];
    let full = format!("/v2/{}{path}", server.project);
    if let Ok(reply) = try_send(server.addr, "POST", &full, &headers, big.clone().into()).await {
        assert_eq!(reply.expect(413).code(), "SIZE_INVALID");
    }
    let first = start(&server, "").await;
    patch(&server, &first, "", &big[..60_000]).await.expect(202);
    if let Ok(reply) =
        try_send(server.addr, "PATCH", &first, &headers, big[..60_000].to_vec().into()).await
    {
        reply.expect(413);
    }
    status(&server, &first).await.expect(404);
    let first = start(&server, "").await;
    start(&server, "").await;
    let reply = server.ask("POST", "/app/blobs/uploads/", &[], Body::empty()).await.expect(429);
    assert_eq!(reply.code(), "TOOMANYREQUESTS");
    assert!(!reply.header("retry-after").is_empty());
    let path = format!("/v2/{}/blobs/uploads/", server.other);
    server.ask_as(STRANGER, "POST", &path, &[], Body::empty()).await.expect(202);
    server.ask_as(OWNER, "DELETE", &first, &[], Body::empty()).await.expect(204);
    start(&server, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_whole_pushes_leave_nothing() {
    let server = Server::start().await;
    let content = noise("whole", 2 << 20);
    let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "POST /v2/{}/blobs/uploads/?digest={} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWNER}\r\n\
         content-length: {}\r\n\r\n",
        server.project,
        sha256(&content),
        content.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[..content.len() - 1]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.files("uploads").len(), 1);
    drop(stream);
    for _ in 0..100 {
        if server.files("").is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("left behind: {:?}", server.files(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_uploads_are_dropped() {
    let limits = Limits { upload_idle: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(limits).await;
    let location = start(&server, "").await;
    patch(&server, &location, "", b"some").await.expect(202);
    tokio::time::sleep(Duration::from_secs(1)).await;
    status(&server, &location).await.expect(404);
    assert!(server.files("").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_bodies_are_given_up() {
    let limits = Limits { stall: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(limits).await;
    let location = start(&server, "").await;
    let mut stream = half_a_patch(&server, &location, 100, b"some").await;
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer));
    let _ = read.await.expect("the server gives up");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(status(&server, &location).await.expect(204).header("range"), "0-3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_forgets_uploads_and_keeps_blobs() {
    let server = Server::start().await;
    let digest = server.push_blob("", b"kept").await;
    let location = start(&server, "").await;
    patch(&server, &location, "", b"half").await.expect(202);
    assert_eq!(server.files("uploads").len(), 1);
    let server = server.restart(Limits::default()).await;
    assert!(server.files("uploads").is_empty());
    status(&server, &location).await.expect(404);
    assert_eq!(server.get(&format!("/blobs/{digest}")).await.expect(200).body, b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_transfers() {
    let server = Server::start().await;
    let location = start(&server, "").await;
    let mut stream = half_a_patch(&server, &location, 100, b"some").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.revoke(OWNER);
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer));
    let _ = read.await.expect("the transfer ends");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    status(&server, &location).await.expect(401);
}
