//! What projects take of the disk, and whether there is room for more.
//!
//! Measuring looks at every file of a project, so a figure counts for a moment; a limit can be overshot by
//! what arrives meanwhile, never by more pushes than may be under way. Nothing is removed here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::collect::{self, CollectError};
use crate::error::Failure;
use crate::limits::MEASURED;
use crate::registry::{Inner, Registry, blocking};

/// What projects were found to take of the disk, and when. Only filled where there is a limit.
#[derive(Default)]
pub(crate) struct Measured(Mutex<HashMap<String, (Instant, u64)>>);

impl Registry {
    /// What the files of `project` take of the disk, unfinished uploads too. Looks at each of them.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn disk_bytes(&self, project: &str) -> Result<u64, CollectError> {
        let Some(dir) = collect::open(&self.0, project).await? else { return Ok(0) };
        collect::blocking(move || dir.disk_bytes()).await
    }
}

impl Inner {
    /// Refuses `more` bytes that would take a project above its limit.
    pub(crate) async fn has_room(
        self: &Arc<Self>,
        project: &str,
        more: u64,
    ) -> Result<(), Failure> {
        let Some(most) = self.limits.project_bytes else { return Ok(()) };
        let known = {
            let mut all = self.measured.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, (at, _)| at.elapsed() < MEASURED);
            all.get(project).map(|(_, bytes)| *bytes)
        };
        let bytes = match known {
            Some(bytes) => bytes,
            None => self.measure(project).await?,
        };
        if bytes.saturating_add(more) <= most {
            return Ok(());
        }
        Err(Failure::Denied(format!(
            "this project's images have {bytes} bytes and may have {most}: delete some of them"
        )))
    }

    async fn measure(self: &Arc<Self>, project: &str) -> Result<u64, Failure> {
        let bytes = match self.project(project).await? {
            Some(dir) => blocking("measure a project", move || dir.disk_bytes()).await?,
            None => 0,
        };
        let mut all = self.measured.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(project.to_owned(), (Instant::now(), bytes));
        Ok(bytes)
    }
}
