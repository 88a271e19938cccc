//! Reset and removal of projects: what runs is canceled and told so, then the cache goes, in the background and also after a
//! restart.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_records::{ProjectState, RecordsError};

use super::{Builds, CACHE};

/// How long to wait before trying again to remove something.
const RETRY: Duration = Duration::from_secs(5);

impl Builds {
    /// Empties a project's cache. Returns when that is certain to happen.
    pub(crate) async fn reset(self: &Arc<Self>, project: &str) -> Result<(), RecordsError> {
        self.records.begin_reset(project).await?;
        let (builds, id) = (Arc::clone(self), project.to_owned());
        tokio::spawn(async move {
            builds.cancel_in(&id, "the project's cache was reset").await;
            builds.finish_reset(&id).await;
        });
        Ok(())
    }

    /// Deletes a project with all it has. Returns when nobody can reach it any more.
    pub(crate) async fn delete(self: &Arc<Self>, project: &str) -> Result<(), RecordsError> {
        let tokens = self.records.begin_delete(project).await?;
        let (builds, id) = (Arc::clone(self), project.to_owned());
        tokio::spawn(async move {
            builds.cancel_in(&id, "the project was deleted").await;
            builds.access.revocations().revoke(&tokens);
            builds.finish_delete(&id).await;
        });
        Ok(())
    }

    /// Takes up what a former server had begun.
    pub(super) async fn resume_removals(self: &Arc<Self>) -> Result<(), RecordsError> {
        for project in self.records.unfinished().await? {
            let builds = Arc::clone(self);
            tokio::spawn(async move {
                if project.state == ProjectState::Deleting {
                    builds.finish_delete(&project.id).await;
                } else {
                    builds.finish_reset(&project.id).await;
                }
            });
        }
        Ok(())
    }

    async fn cancel_in(self: &Arc<Self>, project: &str, reason: &str) {
        let running = self.running();
        let running = running.iter().filter(|live| live.project_id() == project);
        futures::future::join_all(running.map(|live| self.cancel(live, reason))).await;
    }

    async fn finish_reset(&self, project: &str) {
        self.discard(project).await;
        self.note(project, CACHE, 0).await;
        while let Err(error) = self.records.finish_reset(project).await {
            tracing::error!(project, %error, "a reset could not be recorded");
            tokio::time::sleep(RETRY).await;
        }
        tracing::info!(project, "a project's cache was reset");
    }

    async fn finish_delete(&self, project: &str) {
        while let Err(error) = self.images.remove_project(project).await {
            tracing::error!(project, %error, "the images of a project could not be removed");
            tokio::time::sleep(RETRY).await;
        }
        // After the images: this empties the trash, where they are now.
        self.discard(project).await;
        while let Err(error) = self.records.finish_delete(project).await {
            tracing::error!(project, %error, "a removal could not be recorded");
            tokio::time::sleep(RETRY).await;
        }
        tracing::info!(project, "a project was deleted");
    }

    /// The project's store leaves its place; a builder that runs ends first.
    async fn discard(&self, project: &str) {
        while let Err(error) = self.fleet.discard(project).await {
            tracing::error!(project, %error, "a project's cache could not be removed");
            tokio::time::sleep(RETRY).await;
        }
    }
}
