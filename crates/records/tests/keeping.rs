//! What lasts and what does not: old builds go, copies and checks tell the truth, records of earlier versions are brought along,
//! and a full disk tears nothing.

#![allow(clippy::unwrap_used)]

mod place;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_records::{
    Build, BuildStatus, Expired, KeepBuilds, ManifestRow, PageRequest, Project, Provider, Records,
    RecordsError, TokenKind,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use crate::place::{ALL, Place, chunk, step};

impl Place {
    /// A build with one step, `a`, that has a log.
    async fn logged(&self, project: &Project) -> Build {
        let build = self.build(project).await;
        self.records.record_steps(&build.id, &[step("a", true)]).await.unwrap();
        self.records.append_logs(&build.id, &[chunk("a", b"said\n")]).await.unwrap();
        build
    }

    async fn ended(&self, project: &Project) -> Build {
        let build = self.logged(project).await;
        let status = BuildStatus::Success;
        assert!(self.records.finish_build(&build.id, status, None, Utc::now()).await.unwrap());
        build
    }

    fn has_logs(&self, build: &Build) -> bool {
        self.dir.path().join("logs").join(&build.project).join(&build.id).exists()
    }

    async fn left(&self, project: &Project) -> Vec<String> {
        let page = self.records.builds(&project.id, ALL).await.unwrap();
        page.items.into_iter().map(|build| build.id).collect()
    }
}

async fn connect(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).create_if_missing(true).connect().await.unwrap()
}

#[tokio::test]
async fn old_builds_go_and_others_stay() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let old = place.ended(&project).await;
    let shared = place.ended(&project).await;
    place.records.share_build(&shared.id, "a share").await.unwrap();
    let running = place.logged(&project).await;
    let keep = KeepBuilds { builds: 0, days: 90 };
    let now = Utc::now();
    let none = place.records.expire(keep, now + TimeDelta::days(89)).await.unwrap();
    assert_eq!(none, Expired::default());
    let gone = place.records.expire(keep, now + TimeDelta::days(91)).await.unwrap();
    assert_eq!(gone.builds, 1);
    assert!(gone.log_bytes > 0);
    assert!(place.records.build(&old.id).await.unwrap().is_none());
    assert!(place.records.steps(&old.id, ALL).await.unwrap().items.is_empty());
    assert!(!place.has_logs(&old));
    for kept in [&shared, &running] {
        assert!(place.records.build(&kept.id).await.unwrap().is_some());
        assert_eq!(place.records.steps(&kept.id, ALL).await.unwrap().items.len(), 1);
        assert!(place.has_logs(kept));
    }
    // Nothing is said to be kept: everything is.
    let nothing = KeepBuilds::default();
    place.records.stop_sharing(&shared.id).await.unwrap();
    let gone = place.records.expire(nothing, now + TimeDelta::days(9000)).await.unwrap();
    assert_eq!(gone, Expired::default());
    let gone = place.records.expire(keep, now + TimeDelta::days(91)).await.unwrap();
    assert_eq!(gone.builds, 1);
    assert!(place.records.check().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_build_that_is_shared_while_others_go_stays() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let build = place.ended(&project).await;
    // Sharing has begun: nobody sees it yet, and nobody else can write.
    let mut sharing = connect(&place.dir.path().join("records.db")).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut sharing).await.unwrap();
    sqlx::query("INSERT INTO shares (hash, build, project, created_at) VALUES ('hash', $1, $2, 0)")
        .bind(&build.id)
        .bind(&project.id)
        .execute(&mut sharing)
        .await
        .unwrap();
    let (records, later) = (place.records.clone(), Utc::now() + TimeDelta::days(91));
    let keep = KeepBuilds { builds: 0, days: 90 };
    let expiring = tokio::spawn(async move { records.expire(keep, later).await });
    // Time enough to find the build and to wait for a turn to remove it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    sqlx::query("COMMIT").execute(&mut sharing).await.unwrap();
    assert_eq!(expiring.await.unwrap().unwrap(), Expired::default());
    assert!(place.records.build_by_share("hash").await.unwrap().is_some());
    assert_eq!(place.records.steps(&build.id, ALL).await.unwrap().items.len(), 1);
    assert!(place.has_logs(&build));
}

#[tokio::test]
async fn what_an_index_listed_has_its_time_from_when_the_index_went() {
    let place = Place::new().await;
    let project = place.project("p").await.id;
    let long_ago = Utc::now() - TimeDelta::days(9);
    let manifest = |digest: &str, manifests: &[&str]| ManifestRow {
        project: project.clone(),
        repository: project.clone(),
        digest: digest.to_owned(),
        media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
        size: 2,
        subject: None,
        artifact_type: None,
        annotations: "{}".to_owned(),
        pushed_at: long_ago,
        total_size: 2,
        blobs: vec![digest.to_owned()],
        manifests: manifests.iter().map(ToString::to_string).collect(),
    };
    let records = &place.records;
    let all: [(&str, &[&str], Option<&str>); 3] = [
        ("sha256:child", &[], None),
        ("sha256:alone", &[], None),
        ("sha256:index", &["sha256:child"], Some("all")),
    ];
    for (digest, manifests, tag) in all {
        records.put_manifest(manifest(digest, manifests), tag).await.unwrap();
    }
    let unnamed = async |before: DateTime<Utc>| {
        let found = records.unnamed_manifests(&project, before, 10).await.unwrap();
        found.into_iter().map(|(_, digest)| digest).collect::<Vec<_>>()
    };
    let (now, hour) = (Utc::now(), TimeDelta::hours(1));
    assert_eq!(unnamed(now + hour).await, ["sha256:alone"]);
    assert!(records.delete_manifest(&project, &project, "sha256:index").await.unwrap());
    assert_eq!(unnamed(now - hour).await, ["sha256:alone"], "it was named until now");
    assert_eq!(unnamed(now + hour).await, ["sha256:alone", "sha256:child"]);
}

#[tokio::test]
async fn each_project_keeps_its_newest_builds() {
    let place = Place::new().await;
    let (many, few) = (place.project("many").await, place.project("few").await);
    // More than go at a time.
    for _ in 0..120 {
        place.ended(&many).await;
    }
    let other = place.ended(&few).await;
    let request = PageRequest { size: Some(2), token: None };
    let newest = place.records.builds(&many.id, request).await.unwrap().items;
    let keep = KeepBuilds { builds: 2, days: 0 };
    let now = Utc::now();
    // What ended a moment ago may still be reported on.
    assert_eq!(place.records.expire(keep, now).await.unwrap().builds, 0);
    let gone = place.records.expire(keep, now + TimeDelta::hours(2)).await.unwrap();
    assert_eq!(gone.builds, 118);
    let newest: Vec<_> = newest.into_iter().map(|build| build.id).collect();
    assert_eq!(place.left(&many).await, newest);
    assert_eq!(place.left(&few).await, [other.id]);
}

#[tokio::test]
async fn what_was_measured_outlives_the_server_and_goes_with_the_project() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let records = &place.records;
    let at = Utc::now();
    records.set_project_storage(&project.id, "cache", 1, at).await.unwrap();
    records.set_project_storage(&project.id, "cache", u64::MAX, at).await.unwrap();
    records.set_project_storage(&project.id, "registry", 7, at).await.unwrap();
    records.set_project_storage("nobody", "cache", 7, at).await.unwrap();
    let found = records.project_storage(&project.id).await.unwrap();
    let found: Vec<_> = found.iter().map(|row| (row.kind.as_str(), row.bytes)).collect();
    assert_eq!(found, [("cache", i64::MAX.unsigned_abs()), ("registry", 7)]);
    assert_eq!(records.storage().await.unwrap().len(), 2);
    place.logged(&project).await;
    assert!(records.log_bytes(&project.id).await.unwrap() > 0);
    assert_eq!(records.log_bytes("nobody").await.unwrap(), 0);
    records.begin_delete(&project.id).await.unwrap();
    records.finish_delete(&project.id).await.unwrap();
    assert!(records.storage().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_copy_is_whole_and_closed_to_others() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("records.db");
    place.records.backup_to(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0);
    // One that is there is left alone.
    let length = path.metadata().unwrap().len();
    place.project("later").await;
    let error = place.records.backup_to(&path).await.unwrap_err();
    assert!(matches!(error, RecordsError::File { .. }), "{error}");
    assert_eq!(path.metadata().unwrap().len(), length);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    let copy = Records::open(elsewhere.path()).await.unwrap();
    let listed = copy.projects(&place.organization, None, ALL).await.unwrap().items;
    assert_eq!(listed, [project]);
    assert!(copy.check().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_check_finds_what_does_not_belong() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let build = place.logged(&project).await;
    let report = place.records.check().await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.running, std::slice::from_ref(&build.id));
    let mut rows = connect(&place.dir.path().join("records.db")).await;
    sqlx::query("DELETE FROM builds").execute(&mut rows).await.unwrap();
    rows.close().await.unwrap();
    let report = place.records.check().await.unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.stray_rows, [("steps", 1)]);
    assert_eq!(report.stray_logs, [format!("{}/{}", project.id, build.id)]);
    assert!(report.running.is_empty() && report.damage.is_empty());
}

/// The records as the program of each version left them.
const FIXTURES: &[(i64, &str)] =
    &[(1, include_str!("fixtures/records-1.sql")), (2, include_str!("fixtures/records-2.sql"))];

async fn version(file: &Path) -> i64 {
    let mut rows = connect(file).await;
    let version = sqlx::query_scalar("SELECT max(version) FROM schema").fetch_one(&mut rows).await;
    rows.close().await.unwrap();
    version.unwrap()
}

/// A directory with the records of a version, and a log as all versions write it.
async fn older(statements: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = connect(&dir.path().join("records.db")).await;
    sqlx::raw_sql(statements).execute(&mut rows).await.unwrap();
    rows.close().await.unwrap();
    let logs = dir.path().join("logs/prj0000000/bld000000000");
    std::fs::create_dir_all(&logs).unwrap();
    let mut frame = 1_700_000_000_000_000_i64.to_be_bytes().to_vec();
    frame.push(2);
    frame.extend(5_u32.to_be_bytes());
    frame.extend(b"oops\n");
    std::fs::write(logs.join("1"), frame).unwrap();
    dir
}

#[tokio::test]
async fn records_of_earlier_versions_are_brought_along() {
    for (from, statements) in FIXTURES {
        let dir = older(statements).await;
        let records = Records::open(dir.path()).await.unwrap();
        let project = records.project("prj0000000").await.unwrap().unwrap();
        assert_eq!((project.name.as_str(), project.slot, project.cache.keep_gb), ("app", 3, 50));
        let walls = if *from >= 2 { ("vm", "{\"builds\":2}") } else { ("", "") };
        assert_eq!((project.walls.isolation.as_str(), project.walls.limits.as_str()), walls);
        let token = records.token_by_hash("hash of a token").await.unwrap().unwrap();
        assert_eq!(token.kind, TokenKind::Organization);
        let github = Provider::GitHub { owner: "acme".into(), repository: "app".into() };
        assert_eq!(records.projects_trusting(&github).await.unwrap().len(), 1);
        let build = records.build_by_share("hash of a share").await.unwrap().unwrap();
        assert_eq!((build.id.as_str(), build.status), ("bld000000000", BuildStatus::Success));
        assert_eq!((build.total_steps, build.saved), (2, Duration::from_secs(3)));
        let isolation = if *from >= 2 { "namespaces" } else { "" };
        assert_eq!(build.isolation, isolation);
        assert_eq!(records.running_builds().await.unwrap().len(), 1);
        let steps = records.steps(&build.id, ALL).await.unwrap().items;
        assert_eq!(steps[1].error.as_deref(), Some("exit code: 1"));
        let log = records.logs(&build.id, "sha256:b", ALL).await.unwrap().unwrap().items;
        assert_eq!((log[0].stream, log[0].message.as_str()), (2, "oops"));
        let connections = records.connections(&build.id, ALL).await.unwrap().items;
        assert_eq!(connections[0].host, "example.com");
        let images = records.images("prj0000000", ALL).await.unwrap().items;
        assert_eq!((images.len(), images[0].digest.as_str()), (1, "sha256:m1"));
        assert_eq!(records.unfinished().await.unwrap().len(), 1);
        assert!(records.storage().await.unwrap().is_empty());
        let report = records.check().await.unwrap();
        assert!(report.is_sound(), "{report:?}");
        records.close().await;
    }
}

#[tokio::test]
async fn nothing_is_unnamed_since_before_names_were_kept_track_of() {
    let dir = older(FIXTURES[0].1).await;
    let records = Records::open(dir.path()).await.unwrap();
    let (now, hour) = (Utc::now(), TimeDelta::hours(1));
    let unnamed = |before| records.unnamed_manifests("prj0000000", before, 10);
    assert!(unnamed(now - hour).await.unwrap().is_empty());
    let second = ("prj0000000".to_owned(), "sha256:m2".to_owned());
    assert_eq!(unnamed(now + hour).await.unwrap(), std::slice::from_ref(&second));
    // A tag that goes makes the time begin.
    let mut rows = connect(&dir.path().join("records.db")).await;
    sqlx::query("UPDATE manifests SET named_until = 0").execute(&mut rows).await.unwrap();
    rows.close().await.unwrap();
    assert!(records.delete_tag("prj0000000", "prj0000000", "v1").await.unwrap());
    assert_eq!(unnamed(now - hour).await.unwrap(), [second]);
    assert_eq!(unnamed(now + hour).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_was_there_is_copied_before_it_is_changed() {
    for (from, statements) in FIXTURES {
        let dir = older(statements).await;
        let file = dir.path().join("records.db");
        // Who comes beside a running server of that version changes nothing.
        let error = Records::open_as_is(dir.path()).await.unwrap_err();
        assert!(matches!(error, RecordsError::Older { found, .. } if found == *from), "{error}");
        assert_eq!(version(&file).await, *from);
        Records::open(dir.path()).await.unwrap().close().await;
        let now = version(&file).await;
        assert!(now > *from);
        let copy = dir.path().join(format!("records.db.before-{now}"));
        assert_eq!(version(&copy).await, *from);
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o077, 0);
        // There is nothing to bring along any more.
        std::fs::remove_file(&copy).unwrap();
        Records::open_as_is(dir.path()).await.unwrap().close().await;
        Records::open(dir.path()).await.unwrap().close().await;
        assert!(!copy.exists());
    }
}

/// Set in the environment of a process whose files cannot become larger than a MiB.
const BOUNDED: &str = "RECORDS_BOUNDED";

#[tokio::test]
async fn a_full_disk_tears_no_log() {
    if std::env::var_os(BOUNDED).is_some() {
        return write_until_full().await;
    }
    // A bound on files ends a write half way, as a full disk does. In units of 512 bytes; the signal is ignored for the error.
    let output = std::process::Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; ulimit -f 2048; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_full_disk_tears_no_log", "--nocapture"])
        .env(BOUNDED, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complaints}");
}

async fn write_until_full() {
    let place = Place::new().await;
    let project = place.project("p").await;
    let records = &place.records;
    let build = place.build(&project).await.id;
    records.record_steps(&build, &[step("a", true)]).await.unwrap();
    let text = format!("{}\n", "x".repeat(99)).repeat(6000);
    records.append_logs(&build, &[chunk("a", text.as_bytes())]).await.unwrap();
    let error = records.append_logs(&build, &[chunk("a", text.as_bytes())]).await.unwrap_err();
    assert!(matches!(error, RecordsError::File { .. }), "{error}");
    records.append_logs(&build, &[chunk("a", b"after\n")]).await.unwrap();
    let request = PageRequest { size: Some(10_000), token: None };
    let lines = records.logs(&build, "a", request).await.unwrap().unwrap().items;
    assert_eq!(lines.len(), 6001);
    assert_eq!(lines[6000].message, "after");
}
