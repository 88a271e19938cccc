//! What the build API lists and deletes.

use std::time::{Duration, SystemTime};

use cofferdam_records::PageRequest;
use cofferdam_registry::{DeleteImageError, ImageName};

use crate::fixture::{Image, descriptor, index, sha256};
use crate::server::Server;

async fn listed(server: &Server) -> Vec<String> {
    let page = PageRequest { size: None, token: None };
    let images = server.records.images(&server.project, page).await.unwrap();
    let name =
        |row: &cofferdam_records::ImageRow| ImageName::new(&row.repository, &row.tag).unwrap();
    let mut names: Vec<_> = images.items.iter().map(|row| name(row).to_string()).collect();
    names.sort();
    names
}

async fn delete(server: &Server, names: &[&str]) -> Result<(), DeleteImageError> {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    server.registry.delete_images(&server.project, &names).await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_and_deleted_by_one_text() {
    let server = Server::start().await;
    server.push("", &Image::new("one", 10), "b1").await;
    server.push("", &Image::new("two", 10), "b2").await;
    server.push("/app", &Image::new("one", 10), "b1").await;
    assert_eq!(listed(&server).await, ["app:b1", "b1", "b2"]);
    let missing = delete(&server, &["b1", "b3"]).await;
    assert!(matches!(missing, Err(DeleteImageError::NotFound(name)) if name == "b3"));
    assert!(matches!(delete(&server, &["b1", "../x"]).await, Err(DeleteImageError::Name(_))));
    assert_eq!(listed(&server).await, ["app:b1", "b1", "b2"], "all or nothing");
    delete(&server, &["b1", "b2", "b2"]).await.unwrap();
    assert_eq!(listed(&server).await, ["app:b1"]);
    delete(&server, &["app:b1"]).await.unwrap();
    delete(&server, &[]).await.unwrap();
    assert!(listed(&server).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_last_name_frees_the_image() {
    let server = Server::start().await;
    let (amd, arm) = (Image::new("amd", 500), Image::for_architecture("arm", 500, "arm64"));
    for image in [&amd, &arm] {
        server.push("", image, &image.digest()).await;
    }
    let list = index(&[(&amd, "amd64"), (&arm, "arm64")]);
    server.push_manifest("", &list, "both").await.expect(201);
    server.push_manifest("", &list, "again").await.expect(201);
    server.push_manifest("", &arm.manifest, "arm").await.expect(201);
    let media_type = crate::fixture::INDEX;
    let signature = Image::new("signature", 10);
    server.push_blob("", &signature.config).await;
    server.push_blob("", &signature.layer).await;
    let signed =
        signature.manifest_with(serde_json::json!({ "subject": descriptor(media_type, &list) }));
    server.push_manifest("", &signed, &sha256(&signed)).await.expect(201);

    delete(&server, &["both"]).await.unwrap();
    for digest in [sha256(&list), amd.digest(), sha256(&signed)] {
        server.get(&format!("/manifests/{digest}")).await.expect(200);
    }
    delete(&server, &["again"]).await.unwrap();
    for digest in [sha256(&list), amd.digest(), sha256(&signed)] {
        server.get(&format!("/manifests/{digest}")).await.expect(404);
    }
    server.get("/manifests/arm").await.expect(200);
    let long_ago = SystemTime::now() - Duration::from_secs(30 * 24 * 60 * 60);
    for path in server.files("blobs") {
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
    server.registry.collect(&server.project).await.unwrap();
    assert_eq!(server.files("").len(), 3, "config, layer and manifest of the image that is left");
}
