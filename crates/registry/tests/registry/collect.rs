//! Freeing blobs: what goes, what stays, and what a crash leaves.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use cofferdam_registry::{Limits, Trouble};

use crate::fixture::{Image, index, noise, sha256};
use crate::server::Server;

/// Makes every blob of the first project look as if it was last used a month ago.
fn age(server: &Server) {
    let long_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 60 * 60);
    for path in server.files("blobs") {
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_uses_stays() {
    let server = Server::start().await;
    let image = Image::new("stays", 1000);
    let digest = server.push("/app", &image, "v1").await;
    let free = server.push_blob("/app", b"free").await;
    let project = server.project.clone();
    let fresh = server.registry.collect(&project).await.unwrap();
    assert_eq!(fresh.blobs, 0, "a push may still be about to use it");
    age(&server);
    let collected = server.registry.collect(&project).await.unwrap();
    assert_eq!((collected.blobs, collected.bytes), (1, 4));
    server.get(&format!("/app/blobs/{free}")).await.expect(404);
    assert_eq!(
        server.get(&format!("/app/blobs/{}", sha256(&image.layer))).await.expect(200).body,
        image.layer
    );
    server.get("/app/manifests/v1").await.expect(200);
    server.ask("DELETE", &format!("/app/manifests/{digest}"), &[], Body::empty()).await.expect(202);
    age(&server);
    assert_eq!(server.registry.collect(&project).await.unwrap().blobs, 3);
    assert!(server.files("").is_empty());
    assert_eq!(server.registry.collect("bcdfghjklm").await.unwrap().blobs, 0);
    assert_eq!(server.registry.collect("../..").await.unwrap().blobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_its_name_goes_in_the_end() {
    let limits = Limits { untagged: Some(Duration::ZERO), ..Limits::default() };
    let server = Server::start().await;
    let (old, new, child) =
        (Image::new("old", 500), Image::new("new", 500), Image::new("child", 500));
    let old_digest = server.push("/app", &old, "v1").await;
    let digest = server.push("/app", &new, "v1").await;
    let child_digest = server.push("/app", &child, &child.digest()).await;
    let list = index(&[(&child, "amd64")]);
    server.push_manifest("/app", &list, "all").await.expect(201);
    let manifest = |digest: &str| format!("/app/manifests/{digest}");
    // Somebody may use one by its digest: without a bound, all stay.
    let project = server.project.clone();
    assert_eq!(server.registry.collect(&project).await.unwrap().manifests, 0);
    server.get(&manifest(&old_digest)).await.expect(200);
    let server = server.restart(limits).await;
    age(&server);
    let collected = server.registry.collect(&project).await.unwrap();
    assert_eq!(collected.manifests, 1);
    server.get(&manifest(&old_digest)).await.expect(404);
    server.get(&manifest(&digest)).await.expect(200);
    server.get(&manifest(&child_digest)).await.expect(200);
    // Its manifest, its config and its layer, of which nobody knows any more.
    assert_eq!(collected.blobs, 3);
    server.get(&format!("/app/blobs/{}", sha256(&new.layer))).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_index_listed_has_an_age_of_its_own() {
    let server = Server::start().await;
    let child = Image::new("child", 500);
    let child_digest = server.push("/app", &child, &child.digest()).await;
    server.push_manifest("/app", &index(&[(&child, "amd64")]), "all").await.expect(201);
    let project = server.project.clone();
    let manifest = format!("/app/manifests/{child_digest}");
    let limits = Limits { untagged: Some(Duration::ZERO), ..Limits::default() };
    let server = server.restart(limits).await;
    assert_eq!(server.registry.collect(&project).await.unwrap().manifests, 0);
    server.ask("DELETE", "/app/manifests/all", &[], Body::empty()).await.expect(202);
    // The index goes, and what it listed lost its name with that.
    assert_eq!(server.registry.collect(&project).await.unwrap().manifests, 1);
    server.get(&manifest).await.expect(200);
    assert_eq!(server.registry.collect(&project).await.unwrap().manifests, 1);
    server.get(&manifest).await.expect(404);
    age(&server);
    // Two manifests, a config and a layer.
    assert_eq!(server.registry.collect(&project).await.unwrap().blobs, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_disk_is_measured_and_bounded() {
    let server = Server::start().await;
    let project = server.project.clone();
    assert_eq!(server.registry.disk_bytes(&project).await.unwrap(), 0);
    assert_eq!(server.registry.disk_bytes("../..").await.unwrap(), 0);
    server.push("/app", &Image::new("measured", 1_000_000), "v1").await;
    let bytes = server.registry.disk_bytes(&project).await.unwrap();
    assert!((1_000_000..1_200_000).contains(&bytes), "{bytes}");
    let bounded = Limits { project_bytes: Some(bytes + 10_000), ..Limits::default() };
    let server = server.restart(bounded).await;
    server.push_blob("/app", b"small").await;
    let large = noise("large", 30_000);
    let below = format!("/app/blobs/uploads/?digest={}", sha256(&large));
    let refused = server.ask("POST", &below, &[], large).await.expect(403);
    assert!(String::from_utf8_lossy(&refused.body).contains("DENIED"));
    // Where there is no room at all, nothing begins.
    let full = Limits { project_bytes: Some(bytes), ..Limits::default() };
    let server = server.restart(full).await;
    server.ask("POST", "/app/blobs/uploads/", &[], Body::empty()).await.expect(403);
    server.push_manifest("/app", &Image::new("no room", 10).manifest, "v2").await.expect(403);
    server.get("/app/manifests/v1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_through_everything_finds_what_is_wrong() {
    let server = Server::start().await;
    let project = server.project.clone();
    let image = Image::new("verified", 1000);
    let digest = server.push("/app", &image, "v1").await;
    assert!(server.registry.verify(&project).await.unwrap().is_empty());
    assert!(server.registry.verify("bcdfghjklm").await.unwrap().is_empty());
    let (layer, config) = (sha256(&image.layer), sha256(&image.config));
    let file = |digest: &str| server.files(&digest["sha256:".len()..]).remove(0);
    std::fs::write(file(&layer), b"rot").unwrap();
    std::fs::remove_file(file(&config)).unwrap();
    let troubles = server.registry.verify(&project).await.unwrap();
    let repository = format!("{project}/app");
    let expected = [
        Trouble::Wrong { digest: layer },
        Trouble::Missing { repository, manifest: digest, digest: config },
    ];
    assert_eq!(troubles, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_found_present_stays() {
    let server = Server::start().await;
    let image = Image::new("found", 1000);
    let project = server.project.clone();
    server.push_blob("/app", &image.config).await;
    let layer = server.push_blob("/app", &image.layer).await;
    age(&server);
    // One is asked for, the other is mounted: the push goes on as if it had sent them.
    let config = format!("/app/blobs/{}", sha256(&image.config));
    server.ask("HEAD", &config, &[], Body::empty()).await.expect(200);
    let mount = format!("/app/blobs/uploads/?mount={layer}&from={project}/app");
    server.ask("POST", &mount, &[], Body::empty()).await.expect(201);
    assert_eq!(server.registry.collect(&project).await.unwrap().blobs, 0);
    server.push_manifest("/app", &image.manifest, "v1").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_collections_do_not_hurt_each_other() {
    let limits = Limits { grace: Duration::from_millis(100), ..Limits::default() };
    let server = std::sync::Arc::new(Server::with(limits).await);
    let project = server.project.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let collecting = {
        let (server, project, stop) = (server.clone(), project.clone(), stop.clone());
        tokio::spawn(async move {
            let mut freed = 0;
            while !stop.is_cancelled() {
                freed += server.registry.collect(&project).await.unwrap().blobs;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            freed
        })
    };
    // Manifests are only ever accepted when their blobs stay.
    let mut accepted = 0;
    for round in 0..30 {
        let image = Image::new(&format!("round {}", round % 3), 500);
        server.push_blob("/app", &image.config).await;
        server.push_blob("/app", &image.layer).await;
        if round % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        let reply = server.push_manifest("/app", &image.manifest, "latest").await;
        if reply.status == 201 {
            accepted += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            for digest in [sha256(&image.config), sha256(&image.layer), image.digest()] {
                server.get(&format!("/app/blobs/{digest}")).await.expect(200);
            }
            let path = format!("/app/manifests/{}", image.digest());
            server.ask("DELETE", &path, &[], Body::empty()).await.expect(202);
        } else {
            assert_eq!(reply.code(), "MANIFEST_BLOB_UNKNOWN");
        }
    }
    stop.cancel();
    assert!(collecting.await.unwrap() > 0, "nothing was ever collected");
    assert!(accepted > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_project_is_gone_at_once() {
    let server = Server::start().await;
    server.push("/app", &Image::new("removed", 1000), "v1").await;
    let reply = server.ask("POST", "/app/blobs/uploads/", &[], Body::empty()).await.expect(202);
    let location = reply.header("location").to_owned();
    let project = server.project.clone();
    server.records.begin_delete(&project).await.unwrap();
    server.registry.remove_project(&project).await.unwrap();
    assert!(!server.dir.path().join("registry").join(&project).exists());
    assert_eq!(std::fs::read_dir(server.dir.path().join("trash")).unwrap().count(), 1);
    // Those who were let in before the project was deleted find nothing and make nothing.
    let owner = crate::server::OWNER;
    server.ask_as(owner, "PATCH", &location, &[], "x").await.expect(404);
    server.ask("POST", "/app/blobs/uploads/", &[], Body::empty()).await.expect(404);
    let content = noise("late", 10);
    let path = format!("/app/blobs/uploads/?digest={}", sha256(&content));
    server.ask("POST", &path, &[], content).await.expect(404);
    let image = Image::new("late", 10);
    server.push_manifest("/app", &image.manifest, "v1").await.expect(404);
    assert!(!server.dir.path().join("registry").join(&project).exists());
    server.registry.remove_project(&project).await.unwrap();
    server.registry.remove_project("../trash").await.unwrap();
    assert_eq!(std::fs::read_dir(server.dir.path().join("trash")).unwrap().count(), 1);
}
