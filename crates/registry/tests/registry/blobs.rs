//! Blobs: whole uploads, downloads, ranges, mounts, removal.

use axum::body::Body;

use crate::fixture::{Image, noise, sha256, sha512};
use crate::server::{OWNER, STRANGER, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_back_as_it_was_pushed() {
    let server = Server::start().await;
    let content = noise("blob", 3 << 20);
    let digest = server.push_blob("/app", &content).await;
    let reply = server.get(&format!("/app/blobs/{digest}")).await.expect(200);
    assert_eq!(reply.header("docker-content-digest"), digest);
    assert_eq!(reply.header("content-length"), content.len().to_string());
    assert_eq!(reply.header("content-type"), "application/octet-stream");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.body, content);
    let head =
        server.ask("HEAD", &format!("/app/blobs/{digest}"), &[], Body::empty()).await.expect(200);
    assert_eq!(head.header("content-length"), content.len().to_string());
    assert!(head.body.is_empty());
    let missing = sha256(b"missing");
    let reply = server.get(&format!("/app/blobs/{missing}")).await.expect(404);
    assert_eq!(reply.code(), "BLOB_UNKNOWN");
    server.ask("HEAD", &format!("/app/blobs/{missing}"), &[], Body::empty()).await.expect(404);
    assert!(server.files("uploads").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_blob() {
    let server = Server::start().await;
    let digest = server.push_blob("", b"0123456789").await;
    let path = format!("/blobs/{digest}");
    for (range, status, body, content_range) in [
        ("bytes=0-3", 206, "0123", "bytes 0-3/10"),
        ("bytes=4-", 206, "456789", "bytes 4-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=8-100", 206, "89", "bytes 8-9/10"),
        ("bytes=0-1,4-5", 200, "0123456789", ""),
        ("nonsense", 200, "0123456789", ""),
    ] {
        let reply =
            server.ask("GET", &path, &[("range", range)], Body::empty()).await.expect(status);
        assert_eq!(String::from_utf8_lossy(&reply.body), body, "{range}");
        assert_eq!(reply.header("content-range"), content_range, "{range}");
        assert_eq!(reply.header("content-length"), body.len().to_string(), "{range}");
    }
    let reply =
        server.ask("GET", &path, &[("range", "bytes=10-")], Body::empty()).await.expect(416);
    assert_eq!(reply.header("content-range"), "bytes */10");
    let empty = server.push_blob("", b"").await;
    assert!(server.get(&format!("/blobs/{empty}")).await.expect(200).body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_content_becomes_no_blob() {
    let server = Server::start().await;
    let digest = sha256(b"right");
    for digest in [digest.as_str(), &sha512(b"right")] {
        let path = format!("/blobs/uploads/?digest={digest}");
        let reply = server.ask("POST", &path, &[], "wrong").await.expect(400);
        assert_eq!(reply.code(), "DIGEST_INVALID");
        server.get(&format!("/blobs/{digest}")).await.expect(404);
    }
    for digest in ["sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "../../etc/passwd", "x"] {
        let path = format!("/blobs/uploads/?digest={digest}");
        let reply = server.ask("POST", &path, &[], "wrong").await.expect(400);
        assert_eq!(reply.code(), "DIGEST_INVALID");
    }
    assert!(server.files("").is_empty(), "{:?}", server.files(""));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_digests_are_content_too() {
    let server = Server::start().await;
    let content = noise("sha512", 100_000);
    let digest = sha512(&content);
    let path = format!("/blobs/uploads/?digest={digest}");
    server.ask("POST", &path, &[], content.clone()).await.expect(201);
    assert_eq!(server.get(&format!("/blobs/{digest}")).await.expect(200).body, content);
    server.get(&format!("/blobs/{}", sha256(&content))).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_needs_no_upload_within_a_project() {
    let server = Server::start().await;
    let digest = server.push_blob("/one", b"shared").await;
    let from = format!("{}/one", server.project);
    for query in [format!("mount={digest}&from={from}"), format!("mount={digest}")] {
        let path = format!("/two/blobs/uploads/?{query}");
        let reply = server.ask("POST", &path, &[], Body::empty()).await.expect(201);
        assert_eq!(reply.header("location"), format!("/v2/{}/two/blobs/{digest}", server.project));
        assert_eq!(server.get(&format!("/two/blobs/{digest}")).await.expect(200).body, b"shared");
    }
    let missing = sha256(b"missing");
    let path = format!("/two/blobs/uploads/?mount={missing}&from={from}");
    let reply = server.ask("POST", &path, &[], Body::empty()).await.expect(202);
    assert!(reply.header("location").contains("/two/blobs/uploads/"));
    let path = format!("/two/blobs/uploads/?mount=sha256:x&from={from}");
    server.ask("POST", &path, &[], Body::empty()).await.expect(400);
    let path = format!("/two/blobs/uploads/?mount={digest}&from=../one");
    assert_eq!(
        server.ask("POST", &path, &[], Body::empty()).await.expect(400).code(),
        "NAME_INVALID"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_from_a_foreign_project_is_an_upload() {
    let server = Server::start().await;
    let digest = server.push_blob("", b"secret").await;
    let own = format!("/v2/{}/blobs/uploads/?mount={digest}", server.other);
    for from in [format!("&from={}", server.project), String::new(), "&from=bcdfghjklm".to_owned()]
    {
        let path = format!("{own}{from}");
        let reply = server.ask_as(STRANGER, "POST", &path, &[], Body::empty()).await.expect(202);
        assert!(
            reply.header("location").starts_with(&format!("/v2/{}/blobs/uploads/", server.other))
        );
    }
    let path = format!("/v2/{}/blobs/{digest}", server.other);
    server.ask_as(STRANGER, "GET", &path, &[], Body::empty()).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_an_image_is_not_removed() {
    let server = Server::start().await;
    let image = Image::new("kept", 1000);
    let digest = server.push("/app", &image, "v1").await;
    for used in [sha256(&image.layer), sha256(&image.config), digest.clone()] {
        let reply = server
            .ask("DELETE", &format!("/app/blobs/{used}"), &[], Body::empty())
            .await
            .expect(405);
        assert_eq!(reply.code(), "UNSUPPORTED");
    }
    let free = server.push_blob("/app", b"free").await;
    let path = format!("/app/blobs/{free}");
    server.ask("DELETE", &path, &[], Body::empty()).await.expect(202);
    server.ask("DELETE", &path, &[], Body::empty()).await.expect(404);
    server.get(&path).await.expect(404);
    server.ask("DELETE", &format!("/app/manifests/{digest}"), &[], Body::empty()).await.expect(202);
    let layer = format!("/app/blobs/{}", sha256(&image.layer));
    server.ask("DELETE", &layer, &[], Body::empty()).await.expect(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_push_the_same_blob_at_once() {
    let server = Server::start().await;
    let content = noise("same", 2 << 20);
    let digest = sha256(&content);
    let path = format!("/v2/{}/blobs/uploads/?digest={digest}", server.project);
    let pushes = (0..16).map(|_| server.ask_as(OWNER, "POST", &path, &[], content.clone()));
    for reply in futures::future::join_all(pushes).await {
        reply.expect(201);
    }
    assert_eq!(server.get(&format!("/blobs/{digest}")).await.expect(200).body, content);
    assert_eq!(server.files("").len(), 1);
}
