//! Manifests, tags and referrers.

use axum::body::Body;
use serde_json::{Value, json};

use crate::fixture::{INDEX, Image, MANIFEST, descriptor, index, noise, sha256, sha512};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_found_by_tag_and_digest() {
    let server = Server::start().await;
    let image = Image::new("found", 5000);
    server.push_blob("/app", &image.config).await;
    server.push_blob("/app", &image.layer).await;
    let reply = server.push_manifest("/app", &image.manifest, "v1").await.expect(201);
    let digest = image.digest();
    assert_eq!(reply.header("docker-content-digest"), digest);
    assert_eq!(reply.header("location"), format!("/v2/{}/app/manifests/{digest}", server.project));
    assert_eq!(reply.header("oci-subject"), "");
    for reference in ["v1", digest.as_str()] {
        let path = format!("/app/manifests/{reference}");
        let reply = server.get(&path).await.expect(200);
        assert_eq!(reply.body, image.manifest);
        assert_eq!(reply.header("content-type"), MANIFEST);
        assert_eq!(reply.header("docker-content-digest"), digest);
        let head = server.ask("HEAD", &path, &[], Body::empty()).await.expect(200);
        assert_eq!(head.header("content-length"), image.manifest.len().to_string());
        assert!(head.body.is_empty());
    }
    for path in ["/app/manifests/v2", "/other/manifests/v1", "/manifests/v1"] {
        assert_eq!(server.get(path).await.expect(404).code(), "MANIFEST_UNKNOWN");
    }
    let other = format!("/other/manifests/{digest}");
    server.get(&other).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves() {
    let server = Server::start().await;
    let first = server.push("/app", &Image::new("first", 10), "latest").await;
    let second = server.push("/app", &Image::new("second", 10), "latest").await;
    assert_eq!(server.get("/app/manifests/latest").await.header("docker-content-digest"), second);
    server.get(&format!("/app/manifests/{first}")).await.expect(200);
    // Pushing the same again changes nothing.
    server.push("/app", &Image::new("second", 10), "latest").await;
    assert_eq!(server.get("/app/tags/list").await.json()["tags"], json!(["latest"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_pushed_by_digest_may_set_tags() {
    let server = Server::start().await;
    let image = Image::new("digest", 10);
    server.push("/app", &image, &image.digest()).await;
    assert_eq!(server.get("/app/tags/list").await.expect(200).json()["tags"], json!([]));
    let reference = format!("{}?tag=a&tag=b", image.digest());
    let reply = server.push_manifest("/app", &image.manifest, &reference).await.expect(201);
    let tags: Vec<_> =
        reply.headers.get_all("oci-tag").iter().map(|tag| tag.to_str().unwrap()).collect();
    assert_eq!(tags, ["a", "b"]);
    assert_eq!(server.get("/app/tags/list").await.json()["tags"], json!(["a", "b"]));
    let wrong = format!("/app/manifests/{}", sha256(b"other"));
    let headers = [("content-type", MANIFEST)];
    let reply = server.ask("PUT", &wrong, &headers, image.manifest.clone()).await.expect(400);
    assert_eq!(reply.code(), "DIGEST_INVALID");
    let long = sha512(&image.manifest);
    server.push_manifest("/app", &image.manifest, &long).await.expect(201);
    let reply = server.get(&format!("/app/manifests/{long}")).await.expect(200);
    assert_eq!(
        (reply.header("docker-content-digest"), &reply.body),
        (long.as_str(), &image.manifest)
    );
    let many: String = (0..33).map(|number| format!("tag=t{number}&")).collect();
    let reference = format!("{}?{many}", image.digest());
    server.push_manifest("/app", &image.manifest, &reference).await.expect(414);
    let reference = format!("{}?tag=../x", image.digest());
    server.push_manifest("/app", &image.manifest, &reference).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_needs_what_it_refers_to() {
    let server = Server::start().await;
    let image = Image::new("missing", 10);
    let reply = server.push_manifest("/app", &image.manifest, "v1").await.expect(400);
    assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(reply.json()["errors"].as_array().unwrap().len(), 2);
    server.push_blob("/app", &image.config).await;
    let reply = server.push_manifest("/app", &image.manifest, "v1").await.expect(400);
    assert_eq!(reply.json()["errors"][0]["detail"]["digest"], json!(sha256(&image.layer)));
    server.get("/app/manifests/v1").await.expect(404);
    let list = index(&[(&image, "amd64")]);
    let reply = server.push_manifest("/app", &list, "v1").await.expect(400);
    assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
    server.push("/app", &image, &image.digest()).await;
    server.push_manifest("/app", &list, "v1").await.expect(201);
    assert_eq!(server.get("/app/manifests/v1").await.expect(200).header("content-type"), INDEX);
    // A child of another repository is not one of this.
    server.push_manifest("/elsewhere", &list, "v1").await.expect(400);
    let mut lying: Value = serde_json::from_slice(&image.manifest).unwrap();
    lying["layers"][0]["size"] = json!(1);
    let reply = server.push_manifest("/app", lying.to_string().as_bytes(), "v2").await.expect(400);
    assert_eq!(reply.code(), "MANIFEST_INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_bounded_and_typed() {
    let server = Server::start().await;
    let image = Image::new("bounded", 10);
    server.push("/app", &image, "v1").await;
    let room = (4 << 20) - image.manifest.len() - 100;
    let large = image.manifest_with(json!({ "annotations": { "x": "y".repeat(room) } }));
    server.push_manifest("/app", &large, "large").await.expect(201);
    assert_eq!(server.get("/app/manifests/large").await.expect(200).body, large);
    let larger = image.manifest_with(json!({ "annotations": { "x": "y".repeat(4 << 20) } }));
    let path = format!("/v2/{}/app/manifests/larger", server.project);
    let authorization = format!("Bearer {}", crate::server::OWNER);
    let headers = [("content-type", MANIFEST), ("authorization", authorization.as_str())];
    if let Ok(reply) =
        crate::http1::try_send(server.addr, "PUT", &path, &headers, larger.into()).await
    {
        reply.expect(413);
    }
    for (content_type, body) in [
        (INDEX, image.manifest.clone()),
        ("application/json", image.manifest.clone()),
        ("text/html", b"<script>".to_vec()),
        (MANIFEST, b"not json".to_vec()),
        (MANIFEST, Vec::new()),
        (MANIFEST, noise("binary", 1000)),
        ("", b"{\"schemaVersion\":2}".to_vec()),
    ] {
        let headers = [("content-type", content_type)];
        let reply = server.ask("PUT", "/app/manifests/x", &headers, body).await.expect(400);
        assert_eq!(reply.code(), "MANIFEST_INVALID", "{content_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_page_by_page() {
    let server = Server::start().await;
    let image = Image::new("tags", 10);
    for tag in ["b", "a", "C", "d1", "d10", "d2"] {
        server.push("/app", &image, tag).await;
    }
    let all = json!(["C", "a", "b", "d1", "d10", "d2"]);
    let reply = server.get("/app/tags/list").await.expect(200);
    assert_eq!(reply.json(), json!({ "name": format!("{}/app", server.project), "tags": all }));
    assert_eq!(reply.header("link"), "");
    let mut next = "/app/tags/list?n=4".to_owned();
    let mut seen = Vec::new();
    while !next.is_empty() {
        let reply = server.get(&next).await.expect(200);
        seen.extend(reply.json()["tags"].as_array().unwrap().clone());
        let link = reply.header("link").to_owned();
        next = match link.strip_prefix(&format!("</v2/{}", server.project)) {
            Some(rest) => rest.strip_suffix(">; rel=\"next\"").unwrap().to_owned(),
            None => String::new(),
        };
    }
    assert_eq!(json!(seen), all);
    for (query, tags) in [
        ("n=0", json!([])),
        ("n=2&last=b", json!(["d1", "d10"])),
        ("last=d10", json!(["d2"])),
        ("last=zzz", json!([])),
        ("n=99999999", all.clone()),
    ] {
        let reply = server.get(&format!("/app/tags/list?{query}")).await.expect(200);
        assert_eq!(reply.json()["tags"], tags, "{query}");
    }
    assert_eq!(server.get("/app/tags/list?n=0").await.header("link"), "");
    for query in ["n=-1", "n=x", "n=99999999999999999999999", "last=../x"] {
        server.get(&format!("/app/tags/list?{query}")).await.expect(400);
    }
    assert_eq!(server.get("/none/tags/list").await.expect(404).code(), "NAME_UNKNOWN");
    assert_eq!(server.get("/ap/tags/list").await.expect(404).code(), "NAME_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_listed_and_filtered() {
    let server = Server::start().await;
    let image = Image::new("subject", 10);
    let subject = image.digest();
    let path = format!("/app/referrers/{subject}");
    let empty = server.get(&path).await.expect(200);
    assert_eq!(empty.json()["manifests"], json!([]));
    assert_eq!(empty.header("content-type"), INDEX);
    let descriptor = descriptor(MANIFEST, &image.manifest);
    let signature = Image::new("signature", 10);
    let signed = signature.manifest_with(json!({
        "subject": descriptor, "artifactType": "application/signature", "annotations": { "by": "me" },
    }));
    let bom = Image::new("bom", 10);
    let listed = bom.manifest_with(json!({ "subject": descriptor }));
    // The subject need not be there yet.
    for (image, manifest) in [(&signature, &signed), (&bom, &listed)] {
        server.push_blob("/app", &image.config).await;
        server.push_blob("/app", &image.layer).await;
        let reply = server.push_manifest("/app", manifest, &sha256(manifest)).await.expect(201);
        assert_eq!(reply.header("oci-subject"), subject);
    }
    server.push("/app", &image, "v1").await;
    let reply = server.get(&path).await.expect(200);
    assert_eq!(reply.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(reply.header("oci-filters-applied"), "");
    let reply = server.get(&format!("{path}?artifactType=application/signature")).await.expect(200);
    assert_eq!(reply.header("oci-filters-applied"), "artifactType");
    let expected = json!([{
        "mediaType": MANIFEST, "digest": sha256(&signed), "size": signed.len(),
        "artifactType": "application/signature", "annotations": { "by": "me" },
    }]);
    assert_eq!(reply.json()["manifests"], expected);
    let config = "application%2Fvnd.oci.image.config.v1%2Bjson";
    let reply = server.get(&format!("{path}?artifactType={config}")).await.expect(200);
    assert_eq!(reply.json()["manifests"][0]["digest"], json!(sha256(&listed)));
    let reply = server.get(&format!("{path}?artifactType=none")).await.expect(200);
    assert_eq!(reply.json()["manifests"], json!([]));
    let reply = server.get(&format!("/other/referrers/{subject}")).await.expect(200);
    assert_eq!(reply.json()["manifests"], json!([]));
    server.get("/app/referrers/sha256:x").await.expect(400);
    let gone = format!("/app/manifests/{}", sha256(&signed));
    server.ask("DELETE", &gone, &[], Body::empty()).await.expect(202);
    assert_eq!(server.get(&path).await.json()["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_referrers_come_page_by_page() {
    let server = Server::start().await;
    let image = Image::new("paged", 10);
    let subject = image.digest();
    server.push("/app", &image, "v1").await;
    let count = 230;
    for number in 0..count {
        let manifest = image.manifest_with(json!({
            "subject": descriptor(MANIFEST, &image.manifest), "annotations": { "n": number.to_string() },
        }));
        server.push_manifest("/app", &manifest, &sha256(&manifest)).await.expect(201);
    }
    let mut next = format!("/app/referrers/{subject}");
    let mut seen = std::collections::BTreeSet::new();
    let mut pages = 0;
    while !next.is_empty() {
        let reply = server.get(&next).await.expect(200);
        for entry in reply.json()["manifests"].as_array().unwrap() {
            assert!(seen.insert(entry["digest"].as_str().unwrap().to_owned()));
        }
        let link = reply.header("link").to_owned();
        let rest = link.strip_prefix(&format!("</v2/{}", server.project)).unwrap_or_default();
        next = rest.strip_suffix(">; rel=\"next\"").unwrap_or_default().to_owned();
        pages += 1;
    }
    assert_eq!((seen.len(), pages), (count, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_manifests_are_deleted() {
    let server = Server::start().await;
    let image = Image::new("deleted", 10);
    let digest = server.push("/app", &image, "v1").await;
    server.push("/app", &image, "v2").await;
    server.push("/other", &image, "v1").await;
    server.ask("DELETE", "/app/manifests/v1", &[], Body::empty()).await.expect(202);
    server.ask("DELETE", "/app/manifests/v1", &[], Body::empty()).await.expect(404);
    server.get("/app/manifests/v1").await.expect(404);
    server.get("/app/manifests/v2").await.expect(200);
    let path = format!("/app/manifests/{digest}");
    server.ask("DELETE", &path, &[], Body::empty()).await.expect(202);
    server.ask("DELETE", &path, &[], Body::empty()).await.expect(404);
    server.get("/app/manifests/v2").await.expect(404);
    server.get("/other/manifests/v1").await.expect(200);
    assert_eq!(
        server.get(&format!("/other/manifests/{digest}")).await.expect(200).body,
        image.manifest
    );
}
