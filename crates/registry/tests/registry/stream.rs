//! Large blobs: neither way holds one in memory, and a revoked token ends both.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{noise, sha256};
use crate::http1::send;
use crate::server::{OWNER, Server};

const LARGE: u64 = 512 << 20;
const PIECE: usize = 64 << 10;
/// Far less than [`LARGE`], far more than other tests of this process use meanwhile.
const MEMORY: u64 = 350 << 20;

/// Bytes of memory this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_need_little_memory() {
    use sha2::Digest as _;
    let server = Server::start().await;
    let piece = Bytes::from(vec![7; PIECE]);
    let count = LARGE / PIECE as u64;
    let mut hash = sha2::Sha256::new();
    (0..count).for_each(|_| hash.update(&piece));
    let digest = format!("sha256:{}", hex::encode(hash.finalize()));
    let before = resident();
    let peak = tokio::spawn(async move {
        let mut peak = 0;
        loop {
            peak = resident().max(peak);
            assert!(peak < before + MEMORY, "{} MiB more", (peak - before) >> 20);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let stream =
        futures::stream::iter((0..count).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let path = format!("/v2/{}/blobs/uploads/?digest={digest}", server.project);
    let authorization = format!("Bearer {OWNER}");
    let headers = [("authorization", authorization.as_str())];
    send(server.addr, "POST", &path, &headers, Body::from_stream(stream)).await.expect(201);
    let path = format!("/v2/{}/blobs/{digest}", server.project);
    let mut received = 0;
    let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWNER}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut chunks = tokio_util::io::ReaderStream::with_capacity(stream, PIECE);
    while let Some(chunk) = chunks.next().await {
        received += chunk.unwrap().len() as u64;
    }
    assert!(received > LARGE && received < LARGE + 2000);
    assert!(!peak.is_finished(), "{:?}", peak.await.err());
    peak.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_a_download() {
    let server = Server::start().await;
    let content = noise("download", 32 << 20);
    let digest = sha256(&content);
    let path = format!("/blobs/uploads/?digest={digest}");
    server.ask("POST", &path, &[], content.clone()).await.expect(201);
    let mut stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let head = format!(
        "GET /v2/{}/blobs/{digest} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWNER}\r\n\r\n",
        server.project
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = vec![0; 1 << 20];
    stream.read_exact(&mut first).await.unwrap();
    server.revoke(OWNER);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    let _ = read.await.expect("the connection ends");
    assert!(rest.len() < content.len() - (4 << 20), "{} bytes came all the same", rest.len());
}
