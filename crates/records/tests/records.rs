//! Records on real files: what is created is found, pages are stable, ends are ends, removal leaves nothing, hostile tokens and
//! bytes are refused.

#![allow(clippy::unwrap_used)]

mod place;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use cofferdam_records::{
    BuildStatus, ConnectionRecord, LogEntry, ManifestRow, NewToken, PageRequest, ProjectChange,
    ProjectState, Provider, Records, RecordsError, Reference, StepUpdate, TokenKind, Walls,
    WallsChange,
};

use crate::place::{ALL, Place, chunk, step};

impl Place {
    fn token(
        &self,
        kind: TokenKind,
        project: Option<&str>,
        parent: Option<&str>,
        hash: &str,
    ) -> NewToken {
        NewToken {
            kind,
            organization: self.organization.clone(),
            project: project.map(str::to_owned),
            build: None,
            parent: parent.map(str::to_owned),
            description: "a token".to_owned(),
            hash: hash.to_owned(),
            expires_at: None,
        }
    }
}

#[tokio::test]
async fn projects_live_change_and_have_ranges_of_their_own() {
    let place = Place::new().await;
    let (first, second) = (place.project("one").await, place.project("two").await);
    assert_eq!((first.slot, second.slot), (0, 1));
    assert_eq!(place.records.project(&first.id).await.unwrap(), Some(first.clone()));
    let change = ProjectChange { name: Some("uno".into()), ..ProjectChange::default() };
    let changed = place.records.update_project(&first.id, change).await.unwrap().unwrap();
    assert_eq!((changed.name.as_str(), changed.cache.keep_gb), ("uno", 50));
    let listed = place.records.projects(&place.organization, None, ALL).await.unwrap();
    assert_eq!(listed.items, [second.clone(), changed]);
    assert!(place.records.projects("other", None, ALL).await.unwrap().items.is_empty());
    place.records.begin_delete(&first.id).await.unwrap();
    // A range is taken until what carries its ids is gone.
    assert_eq!(place.project("three").await.slot, 2);
    place.records.finish_delete(&first.id).await.unwrap();
    assert_eq!(place.project("four").await.slot, 0);
}

#[tokio::test]
async fn pages_are_stable_while_builds_are_added() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(place.build(&project).await.id);
    }
    let mut seen = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let request = PageRequest { size: Some(2), token: token.as_deref() };
        let page = place.records.builds(&project.id, request).await.unwrap();
        seen.extend(page.items.into_iter().map(|build| build.id));
        place.build(&project).await;
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    made.reverse();
    assert_eq!(seen, made);
}

#[tokio::test]
async fn tokens_of_pages_belong_to_their_list() {
    let place = Place::new().await;
    let (one, other) = (place.project("p").await, place.project("q").await);
    for _ in 0..3 {
        place.build(&one).await;
    }
    let request = PageRequest { size: Some(1), token: None };
    let token = place.records.builds(&one.id, request).await.unwrap().next.unwrap();
    let foreign = PageRequest { size: None, token: Some(&token) };
    let refused = place.records.builds(&other.id, foreign).await;
    assert!(matches!(refused, Err(RecordsError::PageToken)));
    for bad in ["x", "AAAA", "' OR 1=1 --", "🦀"] {
        let request = PageRequest { size: None, token: Some(bad) };
        assert!(
            place.records.builds(&one.id, request).await.unwrap_err().is_bad_request(),
            "{bad}"
        );
        assert!(place.records.steps("b", request).await.unwrap_err().is_bad_request(), "{bad}");
    }
}

#[tokio::test]
async fn a_build_ends_once_and_takes_its_steps_along() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let build = place.build(&project).await;
    let records = &place.records;
    records.record_steps(&build.id, &[step("a", true), step("b", false)]).await.unwrap();
    assert_eq!(records.running_builds().await.unwrap().len(), 1);
    let (ok, canceled) = (BuildStatus::Success, BuildStatus::Canceled);
    assert!(records.finish_build(&build.id, ok, None, Utc::now()).await.unwrap());
    assert!(!records.finish_build(&build.id, canceled, Some("no"), Utc::now()).await.unwrap());
    let found = records.build(&build.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.error), (ok, None));
    assert!(records.running_builds().await.unwrap().is_empty());
    let steps = records.steps(&build.id, ALL).await.unwrap().items;
    assert!(steps[0].error.is_none() && steps[1].error.is_some());
    assert!(steps.iter().all(|step| step.completed_at.is_some()));
}

#[tokio::test]
async fn steps_keep_their_order_and_counts() {
    let place = Place::new().await;
    let build = place.build(&place.project("p").await).await;
    let records = &place.records;
    records.record_steps(&build.id, &[step("b", false), step("a", false)]).await.unwrap();
    let saved = Duration::from_secs(3);
    let cached = StepUpdate { cached: true, saved, ..step("b", true) };
    records.record_steps(&build.id, &[cached, step("c", true)]).await.unwrap();
    // What comes late does not undo what is done.
    records.record_steps(&build.id, &[step("b", false)]).await.unwrap();
    let steps = records.steps(&build.id, ALL).await.unwrap().items;
    let order: Vec<_> = steps.iter().map(|step| (step.ordinal, step.digest.as_str())).collect();
    assert_eq!(order, [(0, "b"), (1, "a"), (2, "c")]);
    assert!(steps[0].completed_at.is_some() && steps[0].cached && steps[1].completed_at.is_none());
    assert_eq!(steps[0].inputs, ["sha256:in"]);
    let found = records.build(&build.id).await.unwrap().unwrap();
    assert_eq!((found.total_steps, found.cached_steps, found.saved), (3, 1, saved));
    records.record_steps("nobuild", &[step("x", true)]).await.unwrap();
    assert!(records.steps("nobuild", ALL).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn logs_are_lines_whatever_the_chunks_were() {
    let place = Place::new().await;
    let build = place.build(&place.project("p").await).await;
    let records = &place.records;
    records.record_steps(&build.id, &[step("a", false), step("b", false)]).await.unwrap();
    let chunks = [
        chunk("a", b"one\ntw"),
        LogEntry { stream: 2, ..chunk("a", b"err\n") },
        chunk("a", b"o\nthree \xff"),
        chunk("unknown", b"dropped\n"),
    ];
    records.append_logs(&build.id, &chunks).await.unwrap();
    let read = records.logs(&build.id, "a", ALL).await.unwrap().unwrap();
    let lines: Vec<_> = read.items.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(lines, ["one", "err", "two", "three \u{fffd}"]);
    assert_eq!(read.items[1].stream, 2);
    let steps = records.steps(&build.id, ALL).await.unwrap().items;
    assert!(steps[0].has_logs && !steps[1].has_logs);
    assert!(records.logs(&build.id, "b", ALL).await.unwrap().unwrap().items.is_empty());
    assert!(records.logs(&build.id, "unknown", ALL).await.unwrap().is_none());
}

#[tokio::test]
async fn long_logs_are_read_in_pages_and_cut_at_their_bound() {
    let place = Place::new().await;
    let build = place.build(&place.project("p").await).await;
    let records = &place.records;
    records.record_steps(&build.id, &[step("a", false)]).await.unwrap();
    let text: String =
        (0..10_000).map(|number| format!("line {number} {}\n", "x".repeat(100))).collect();
    for _ in 0..16 {
        records.append_logs(&build.id, &[chunk("a", text.as_bytes())]).await.unwrap();
    }
    let (mut lines, mut token, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let request = PageRequest { size: Some(10_000), token: token.as_deref() };
        let page = records.logs(&build.id, "a", request).await.unwrap().unwrap();
        lines.extend(page.items);
        pages += 1;
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert!(pages > 5, "{pages}");
    assert!(lines.len() > 100_000 && lines.len() < 160_000, "{}", lines.len());
    assert_eq!(lines[9_999].message, format!("line 9999 {}", "x".repeat(100)));
    assert!(lines.last().unwrap().message.starts_with("[log truncated"));
}

#[tokio::test]
async fn tokens_end_with_what_they_were_made_with() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let records = &place.records;
    let root = place.token(TokenKind::Organization, None, None, "h1");
    let root = records.create_token(root).await.unwrap();
    let child = place.token(TokenKind::Session, None, Some(&root.id), "h2");
    let child = records.create_token(child).await.unwrap();
    let grandchild = place.token(TokenKind::Pull, Some(&project.id), Some(&child.id), "h3");
    let grandchild = records.create_token(grandchild).await.unwrap();
    assert_eq!(records.token_by_hash("h3").await.unwrap(), Some(grandchild.clone()));
    assert!(records.create_token(place.token(TokenKind::Pull, None, None, "h3")).await.is_err());
    let mut gone = records.delete_token(&root.id).await.unwrap();
    gone.sort();
    let mut expected = [root.id.clone(), child.id, grandchild.id];
    expected.sort();
    assert_eq!(gone, expected);
    // Nothing can be made with a token that is gone.
    let late = place.token(TokenKind::Session, None, Some(&root.id), "h4");
    records.create_token(late).await.unwrap_err();
    let expired = NewToken {
        expires_at: Some(Utc::now() - TimeDelta::seconds(1)),
        ..place.token(TokenKind::Pull, Some(&project.id), None, "h5")
    };
    records.create_token(expired).await.unwrap();
    assert_eq!(records.delete_expired_tokens(Utc::now()).await.unwrap(), 1);
}

#[tokio::test]
async fn trust_is_exact() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let github = |owner: &str, repository: &str| Provider::GitHub {
        owner: owner.to_owned(),
        repository: repository.to_owned(),
    };
    let records = &place.records;
    let policy = records.add_trust_policy(&project.id, github("acme", "app")).await.unwrap();
    let again = records.add_trust_policy(&project.id, github("acme", "app")).await.unwrap();
    assert_eq!(policy, again);
    assert_eq!(records.projects_trusting(&github("acme", "app")).await.unwrap().len(), 1);
    for other in [github("acme", "App"), github("acme", "app2"), github("acm", "eapp")] {
        assert!(records.projects_trusting(&other).await.unwrap().is_empty(), "{other:?}");
    }
    assert!(!records.remove_trust_policy("other", &policy.id).await.unwrap());
    assert!(records.remove_trust_policy(&project.id, &policy.id).await.unwrap());
}

fn manifest(project: &str, digest: &str) -> ManifestRow {
    ManifestRow {
        project: project.to_owned(),
        repository: project.to_owned(),
        digest: digest.to_owned(),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        size: 10,
        subject: None,
        artifact_type: None,
        annotations: "{}".to_owned(),
        pushed_at: Utc::now(),
        total_size: 110,
        blobs: vec![format!("blob of {digest}")],
        manifests: Vec::new(),
    }
}

#[tokio::test]
async fn images_are_named_listed_and_deleted() {
    let place = Place::new().await;
    let project = place.project("p").await.id;
    let records = &place.records;
    for (digest, tag) in [("d1", "v1"), ("d2", "v2"), ("d2", "latest")] {
        records.put_manifest(manifest(&project, digest), Some(tag)).await.unwrap();
    }
    let found = records.manifest(&project, &project, Reference::Tag("v2".into())).await.unwrap();
    assert_eq!(found.unwrap().blobs, ["blob of d2"]);
    let images = records.images(&project, ALL).await.unwrap().items;
    let tags: Vec<_> = images.iter().map(|image| image.tag.as_str()).collect();
    assert_eq!(tags, ["latest", "v2", "v1"]);
    assert_eq!(records.tags(&project, &project, 2, Some("latest")).await.unwrap(), ["v1", "v2"]);
    assert!(records.blob_is_referenced(&project, "blob of d1").await.unwrap());
    assert!(records.delete_manifest(&project, &project, "d1").await.unwrap());
    assert!(!records.blob_is_referenced(&project, "blob of d1").await.unwrap());
    assert!(records.delete_tag(&project, &project, "v2").await.unwrap());
    assert_eq!(records.images(&project, ALL).await.unwrap().items.len(), 1);
    records.put_manifest(manifest("nobody", "d1"), None).await.unwrap_err();
}

#[tokio::test]
async fn a_deleted_project_leaves_nothing() {
    let place = Place::new().await;
    let (project, kept) = (place.project("p").await, place.project("kept").await);
    let records = &place.records;
    let connection = ConnectionRecord {
        step: "a".into(),
        protocol: "tcp".into(),
        host: "example.com".into(),
        address: "192.0.2.1".into(),
        port: 443,
        allowed: false,
        sent: 1,
        received: u64::MAX,
        opened_at: Utc::now(),
    };
    for (number, project) in [&project, &kept].into_iter().enumerate() {
        for _ in 0..3 {
            let build = place.build(project).await;
            records.record_steps(&build.id, &[step("a", true)]).await.unwrap();
            records.append_logs(&build.id, &[chunk("a", b"x\n")]).await.unwrap();
            records.record_connections(&build.id, std::slice::from_ref(&connection)).await.unwrap();
            records.share_build(&build.id, &format!("share {}", build.id)).await.unwrap();
            assert_eq!(records.connections(&build.id, ALL).await.unwrap().items[0].port, 443);
        }
        records.put_manifest(manifest(&project.id, "d"), Some("v1")).await.unwrap();
        let token = place.token(TokenKind::Project, Some(&project.id), None, &format!("h{number}"));
        records.create_token(token).await.unwrap();
    }
    let tokens = records.begin_delete(&project.id).await.unwrap();
    assert_eq!(tokens.len(), 1);
    let state = records.project(&project.id).await.unwrap().unwrap().state;
    assert_eq!(state, ProjectState::Deleting);
    assert_eq!(records.projects(&place.organization, None, ALL).await.unwrap().items.len(), 1);
    // A token made in the same moment does not slip in.
    let late = place.token(TokenKind::Project, Some(&project.id), None, "late");
    records.create_token(late).await.unwrap_err();
    assert_eq!(records.unfinished().await.unwrap().len(), 1);
    records.finish_delete(&project.id).await.unwrap();
    assert!(records.unfinished().await.unwrap().is_empty());
    assert!(records.project(&project.id).await.unwrap().is_none());
    assert!(records.builds(&project.id, ALL).await.unwrap().items.is_empty());
    assert!(records.images(&project.id, ALL).await.unwrap().items.is_empty());
    assert!(!place.dir.path().join("logs").join(&project.id).exists());
    assert!(place.dir.path().join("logs").join(&kept.id).exists());
    assert_eq!(records.builds(&kept.id, ALL).await.unwrap().items.len(), 3);
    assert_eq!(records.images(&kept.id, ALL).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn usage_counts_the_builds_of_its_window() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let build = place.build(&project).await;
    let records = &place.records;
    let end = build.created_at + TimeDelta::seconds(90);
    records.start_build(&build.id, build.created_at, "namespaces").await.unwrap();
    assert_eq!(records.build(&build.id).await.unwrap().unwrap().isolation, "namespaces");
    records.finish_build(&build.id, BuildStatus::Success, None, end).await.unwrap();
    let (from, to) = (build.created_at, build.created_at + TimeDelta::hours(1));
    let usage = records.project_usage(&project.id, from, to).await.unwrap().unwrap();
    assert_eq!((usage.builds, usage.duration), (1, Duration::from_secs(90)));
    let empty = records
        .project_usage(&project.id, from - TimeDelta::hours(1), from)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((empty.builds, empty.duration), (0, Duration::ZERO));
    let all = records.organization_usage(&place.organization, from, to, ALL).await.unwrap();
    assert_eq!(all.items, [usage]);
}

#[tokio::test]
async fn newer_records_are_refused_and_others_are_kept() {
    let place = Place::new().await;
    let project = place.project("p").await;
    place.records.close().await;
    let records = Records::open(place.dir.path()).await.unwrap();
    assert!(records.project(&project.id).await.unwrap().is_some());
    records.close().await;
    let file = place.dir.path().join("records.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query("INSERT INTO schema VALUES (999, '9.9.9')").execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    let error = Records::open(place.dir.path()).await.unwrap_err();
    assert!(matches!(error, RecordsError::Newer { found: 999, .. }), "{error}");
    assert!(error.to_string().contains("9.9.9"), "{error}");
}

#[tokio::test]
async fn files_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new().await;
    for name in ["records.db", "records.db-wal", "records.db-shm"] {
        let mode = std::fs::metadata(place.dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[tokio::test]
async fn what_a_project_says_about_its_walls_is_kept_and_can_be_taken_back() {
    let place = Place::new().await;
    let (project, other) = (place.project("p").await, place.project("other").await);
    assert_eq!(project.walls, Walls::default());
    let change = |isolation: Option<&str>, limits: Option<&str>| WallsChange {
        isolation: isolation.map(str::to_owned),
        network_policy: None,
        limits: limits.map(str::to_owned),
    };
    let update = |change| place.records.update_walls(&project.id, change);
    update(change(Some("vm"), None)).await.unwrap().unwrap();
    let walls = update(change(None, Some("{}"))).await.unwrap().unwrap().walls;
    assert_eq!((walls.isolation.as_str(), walls.limits.as_str()), ("vm", "{}"));
    let walls = update(change(Some(""), None)).await.unwrap().unwrap().walls;
    assert_eq!((walls.isolation.as_str(), walls.limits.as_str()), ("", "{}"));
    assert_eq!(place.records.project(&project.id).await.unwrap().unwrap().walls, walls);
    let kept = place.records.project(&other.id).await.unwrap().unwrap();
    assert_eq!(kept.walls, Walls::default());
    place.records.begin_delete(&project.id).await.unwrap();
    assert_eq!(update(change(Some("vm"), None)).await.unwrap(), None);
}
