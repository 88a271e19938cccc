//! What projects take of the server's disk. Servers that cannot tell say so with the code `unimplemented`.

use chrono::{DateTime, Utc};
use cofferdam_wire::cofferdam::server::v1 as wire;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::page::{Page, PageRequest};
use crate::time;

/// What a project takes of the disk, as far as the server knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProjectStorage {
    /// The project.
    pub project: String,
    /// Caches of its builders.
    pub cache: Option<DiskUse>,
    /// Images in the server's registry.
    pub registry: Option<DiskUse>,
    /// Logs of its builds.
    pub logs: Option<DiskUse>,
}

/// What something takes of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskUse {
    /// Bytes, as `du` counts them.
    pub bytes: u64,
    /// When that was measured.
    pub measured_at: Option<DateTime<Utc>>,
}

impl From<wire::ProjectStorage> for ProjectStorage {
    fn from(storage: wire::ProjectStorage) -> Self {
        let mut known = Self { project: storage.project_id, ..Self::default() };
        for figure in storage.figures {
            let measured_at = time::read(&figure.measured_at);
            let used = Some(DiskUse { bytes: figure.bytes, measured_at });
            match figure.kind.as_str() {
                "cache" => known.cache = used,
                "registry" => known.registry = used,
                "logs" => known.logs = used,
                // Later servers may know of more.
                _ => {}
            }
        }
        known
    }
}

impl ApiClient {
    /// What each project of the organization takes, or one of them.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn storage(
        &self,
        project: Option<&str>,
        page: PageRequest,
    ) -> Result<Page<ProjectStorage>, ApiError> {
        let request = wire::ListStorageRequest {
            project_id: project.map(str::to_owned),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call = self.settings_service().list_storage_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let projects = answer.projects.into_iter().map(ProjectStorage::from).collect();
        Ok(Page::new(projects, Some(answer.next_page_token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let figure = |kind: &str, bytes| wire::StorageFigure {
            kind: kind.to_owned(),
            bytes,
            ..Default::default()
        };
        let storage = ProjectStorage::from(wire::ProjectStorage {
            project_id: "p".to_owned(),
            figures: vec![figure("cache", 5), figure("dreams", 6)],
            ..Default::default()
        });
        assert_eq!(storage.cache, Some(DiskUse { bytes: 5, measured_at: None }));
        assert_eq!((storage.registry, storage.logs), (None, None));
    }
}
