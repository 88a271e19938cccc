//! What is done once a day: old builds go, where the operator wants that, and content of images that nothing refers to.
//!
//! Nothing that a tenant can still name may be removed here unless the configuration says so.

use std::time::Duration;

use chrono::{DateTime, Utc};
use cofferdam_records::{KeepBuilds, PageRequest, Records, RecordsError};
use cofferdam_registry::Registry;

/// How long after its start a server tidies up for the first time: not while clients come back, and also when it is started each day.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// How often from then on.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Projects read at a time.
const PAGE: i32 = 100;

/// Runs for as long as the server does.
pub(crate) async fn tidy_up(records: Records, images: Registry, keep: KeepBuilds) {
    tokio::time::sleep(FIRST).await;
    loop {
        once(&records, &images, keep, Utc::now()).await;
        tokio::time::sleep(EVERY).await;
    }
}

/// What fails is in the log, and tried again the next day.
async fn once(records: &Records, images: &Registry, keep: KeepBuilds, now: DateTime<Utc>) {
    match records.expire(keep, now).await {
        Ok(gone) if gone.builds > 0 => {
            tracing::info!(
                builds = gone.builds,
                log_bytes = gone.log_bytes,
                "removed builds that are not to be kept any longer"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "old builds could not be removed"),
    }
    match projects(records).await {
        Ok(projects) => {
            for project in projects {
                collect_project(images, &project).await;
            }
        }
        Err(error) => tracing::warn!(%error, "projects could not be listed for unused blobs"),
    }
}

/// Ids of all projects that are not being deleted; there are no more than the fleet has id ranges.
pub(crate) async fn projects(records: &Records) -> Result<Vec<String>, RecordsError> {
    let mut projects = Vec::new();
    for organization in records.organizations().await? {
        let mut token: Option<String> = None;
        loop {
            let request = PageRequest { size: Some(PAGE), token: token.as_deref() };
            let page = records.projects(&organization.id, None, request).await?;
            projects.extend(page.items.into_iter().map(|project| project.id));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
    }
    Ok(projects)
}

/// Frees what nothing refers to in one project.
async fn collect_project(images: &Registry, project: &str) {
    match images.collect(project).await {
        Ok(freed) if freed.blobs > 0 || freed.manifests > 0 => {
            tracing::info!(
                project,
                blobs = freed.blobs,
                bytes = freed.bytes,
                manifests = freed.manifests,
                "removed what nothing refers to from the registry"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(project, %error, "unused blobs could not be removed"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Path, PathBuf};
    use std::time::SystemTime;

    use chrono::TimeDelta;
    use cofferdam_records::{BuildStatus, CachePolicy, NewBuild, NewProject};

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// A project and a build of it that has ended.
    async fn project(records: &Records, organization: &str) -> (String, String) {
        let organization = records.create_organization(organization).await.unwrap().id;
        let new = NewProject {
            organization: organization.clone(),
            name: "project".to_owned(),
            region: "us-east-1".to_owned(),
            cache: CachePolicy { keep_gb: 50, keep_days: 14 },
            hardware: 1,
        };
        let project = records.create_project(new).await.unwrap().id;
        let new = NewBuild {
            id: None,
            project: project.clone(),
            organization,
            token: None,
            command: 1,
            options: "[]".to_owned(),
        };
        let build = records.create_build(new).await.unwrap().id;
        let ended = records.finish_build(&build, BuildStatus::Success, None, Utc::now()).await;
        assert!(ended.unwrap());
        (project, build)
    }

    /// A blob that nothing refers to, used last so long ago.
    fn blob(directory: &Path, project: &str, age: Duration) -> PathBuf {
        let shard = directory.join("registry").join(project).join("blobs/sha256").join(&HEX[..2]);
        std::fs::create_dir_all(&shard).unwrap();
        let path = shard.join(HEX);
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        path
    }

    #[tokio::test]
    async fn each_project_is_tidied_and_builds_stay_unless_told_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let images = crate::registry::open(records.clone(), directory.path()).unwrap();
        let (one, first) = project(&records, "one").await;
        let (two, second) = project(&records, "two").await;
        let old = [&one, &two].map(|project| blob(directory.path(), project, 2 * EVERY));
        let late = Utc::now() + TimeDelta::days(9000);
        once(&records, &images, KeepBuilds::default(), late).await;
        assert!(old.iter().all(|path| !path.exists()));
        let fresh = blob(directory.path(), &one, Duration::ZERO);
        for (days, kept) in [(0, true), (9001, true), (8999, false)] {
            once(&records, &images, KeepBuilds { builds: 0, days }, late).await;
            for build in [&first, &second] {
                assert_eq!(records.build(build).await.unwrap().is_some(), kept, "{days}");
            }
        }
        assert!(fresh.exists());
    }
}
