//! Backups of a server that works, and what comes of damaged ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cofferdam_tests::marks::{appears, mark, sleeping};
use cofferdam_tests::{Context, Data, Project, Server};

use crate::{as_the_page_says, cofferdam, know_token, logs, pull};

/// Saves an image under the tag `stable`; the build's id.
fn save(server: &Server, project: &Project) -> String {
    let context = Context::dockerfile("FROM @busybox\nRUN echo saved > /s && echo told\n");
    let _ = server.depot_build(project, &context).args("--save --save-tag stable").success();
    server.newest_id(project)
}

/// Files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(next) = queue.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { queue.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn blobs(directory: &Path) -> Vec<PathBuf> {
    let all = files(&directory.join("registry"));
    all.into_iter().filter(|path| path.to_str().unwrap().contains("/blobs/")).collect()
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn what_was_saved_while_a_build_ran_is_restored_as_the_page_says() {
    let server = Server::start();
    let project = server.project("saved");
    let token = server.token().to_owned();
    let built = save(&server, &project);
    let image = pull(&server, &project, "stable");
    let mark = mark(64);
    let context = sleeping(&mark);
    let running = server.depot_build(&project, &context).spawn();
    appears(&mark);
    let interrupted = server.newest_id(&project);

    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    for outcome in as_the_page_says("backup", &server.data().path(), &backup) {
        let _ = outcome.success();
    }
    // What was made later is not in it.
    let late = server.project("late");
    let gone = server.kill();
    let _ = running.finish();
    drop(gone);
    assert!(!files(&backup).iter().any(|path| path.to_str().unwrap().contains("/projects/")));
    let text = fs::read_to_string(backup.join("manifest.json")).unwrap();
    assert!(!text.contains(&token) && text.contains("\"version\": 1"), "{text}");

    let data = Data::new();
    for outcome in as_the_page_says("restore", &data.path(), &backup) {
        let _ = outcome.success();
    }
    know_token(&data, &token);
    let server = Server::start_in(data, "");
    assert_eq!(server.ended(&interrupted, Duration::from_secs(60))["status"], "STATUS_ERROR");
    let listed = server.builds(&project);
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(listed[1]["buildId"], built);
    assert_eq!(listed[1]["status"], "STATUS_SUCCESS");
    assert_eq!(logs(&server, &project, &built, "RUN echo saved"), ["told"]);
    let pulled = pull(&server, &project, "stable");
    assert_eq!(
        (pulled.digest.as_str(), pulled.text("s")),
        (image.digest.as_str(), "saved\n".to_owned())
    );
    let context = Context::small();
    let _ = server.depot_build(&project, &context).success();
    let refused = server.depot_build(&late, &context).run();
    assert_ne!(refused.code, Some(0), "a token of later was taken");
}

#[test]
fn damaged_backups_are_refused_by_name() {
    let server = Server::start();
    let project = server.project("damaged");
    let _ = save(&server, &project);
    let place = tempfile::tempdir().unwrap();
    let (backup, into) = (place.path().join("backup"), place.path().join("into"));
    let create =
        |to: &Path| cofferdam("backup create --data-dir").arg(server.data().path()).arg(to).run();
    let restore = || cofferdam("backup restore").arg(&backup).arg("--data-dir").arg(&into).run();
    let _ = create(&backup).success();
    // Nothing is written over, neither a backup nor a server's data.
    assert!(create(&backup).failure().contains("is not empty"));
    let inside = server.data().path().join("backup");
    assert!(create(&inside).failure().contains("is in the data directory"));
    let over = || {
        let data = server.data().path();
        cofferdam("backup restore").arg(&backup).arg("--data-dir").arg(data).run().failure()
    };
    assert!(over().contains("another server uses"), "{}", over());

    let mut victims = blobs(&backup);
    victims.extend(files(&backup.join("logs")));
    victims.push(backup.join("records.db"));
    for victim in victims {
        let whole = fs::read(&victim).unwrap();
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        for content in [Some(damaged), Some(whole[..middle].to_vec()), None] {
            match content {
                Some(content) => fs::write(&victim, content).unwrap(),
                None => fs::remove_file(&victim).unwrap(),
            }
            let verified = cofferdam("backup verify").arg(&backup).run().failure();
            assert!(verified.contains(name(&victim)), "{verified}");
            let said = restore().failure();
            assert!(said.contains("damaged") && said.contains(name(&victim)), "{said}");
            assert_eq!(files(&into), [into.join("lock")], "half a restore was left");
        }
        fs::write(&victim, whole).unwrap();
    }
    let manifest = fs::read_to_string(backup.join("manifest.json")).unwrap();
    let newer = manifest
        .replace("\"version\": 1", "\"version\": 9")
        .replace("\"program\": \"cofferdam ", "\"program\": \"cofferdam 9.");
    fs::write(backup.join("manifest.json"), newer).unwrap();
    let said = restore().failure();
    assert!(said.contains("version 9") && said.contains("cofferdam 9."), "{said}");
    fs::remove_file(backup.join("manifest.json")).unwrap();
    assert!(restore().failure().contains("is no backup"));
    fs::write(backup.join("manifest.json"), manifest).unwrap();
    let _ = restore().success();
    assert!(restore().failure().contains("is not empty"));
    let _ = cofferdam("check --data-dir").arg(&into).run().success();
}

#[test]
fn what_is_lost_already_is_named_and_the_rest_is_saved() {
    let server = Server::start();
    let project = server.project("lost");
    let _ = save(&server, &project);
    let data = server.data().path();
    let check = || cofferdam("check --data-dir").arg(&data).run();
    let sound = check().success();
    assert!(sound.text().contains("nothing is wrong"), "{}", sound.text());
    let all = blobs(&data);
    // Layers: a manifest that cannot be read needs nothing.
    let is_layer = |path: &&PathBuf| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let mut layers: Vec<_> = all.iter().filter(is_layer).collect();
    layers.sort_by_key(|blob| blob.metadata().unwrap().len());
    let [other, .., largest] = layers.as_slice() else { panic!("few layers: {all:?}") };
    fs::remove_file(largest).unwrap();
    let mut content = fs::read(other).unwrap();
    content[0] ^= 1;
    fs::write(other, content).unwrap();

    let found = check();
    assert_eq!(found.code, Some(1));
    let found = cofferdam("check --json --data-dir").arg(&data).run().json();
    assert_eq!(found["sound"], false);
    let problems = found["problems"].to_string();
    assert!(problems.contains(name(largest)) && problems.contains(name(other)), "{problems}");

    let place = tempfile::tempdir().unwrap();
    let (backup, into) = (place.path().join("backup"), place.path().join("into"));
    let made = cofferdam("backup create --data-dir").arg(&data).arg(&backup).run();
    assert_eq!(made.code, Some(1), "{}", made.stderr);
    assert!(made.stderr.contains(name(largest)) && made.stderr.contains(name(other)));
    let restored = cofferdam("backup restore").arg(&backup).arg("--data-dir").arg(&into).run();
    assert_eq!(restored.code, Some(1), "{}", restored.stderr);
    assert!(restored.stderr.contains(name(largest)), "{}", restored.stderr);
    assert!(into.join("records.db").exists());
    let left: Vec<_> = blobs(&into).iter().map(|blob| name(blob).to_owned()).collect();
    assert_eq!(left.len(), all.len() - 2, "{left:?}");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_is_saved() {
    let server = Server::start();
    let project = server.project("unreadable");
    let _ = save(&server, &project);
    let data = server.data().path();
    let (all, written) = (blobs(&data), files(&data.join("logs")));
    // Something else in their places: nothing more is needed for a disk to say no.
    let (blob, log) = (&all[0], &written[0]);
    for victim in [blob, log] {
        fs::remove_file(victim).unwrap();
        fs::create_dir(victim).unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let backup = place.path().join("backup");
    let made = cofferdam("backup create --data-dir").arg(&data).arg(&backup).run();
    assert_eq!(made.code, Some(1), "{}", made.stderr);
    for victim in [blob, log] {
        let named = |line: &str| line.contains(name(victim)) && line.contains("cannot be read");
        assert!(made.stderr.lines().any(named), "{victim:?} is not named: {}", made.stderr);
    }
    let verified = cofferdam("backup verify").arg(&backup).run().failure();
    assert!(verified.contains("cannot be read") && !verified.contains("damaged:"), "{verified}");
    assert_eq!(blobs(&backup).len(), all.len() - 1);
    assert_eq!(files(&backup.join("logs")).len(), written.len() - 1);
    let into = place.path().join("into");
    let restored = cofferdam("backup restore").arg(&backup).arg("--data-dir").arg(&into).run();
    assert!(restored.stderr.contains("cannot be read"), "{}", restored.stderr);
    assert!(into.join("records.db").exists());
}
