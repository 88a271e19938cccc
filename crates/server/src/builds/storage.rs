//! What a project takes of the server's disk: found out now where that is cheap or was asked for, else as it was found last.
//!
//! What is found is kept in the records, so that it is known after a restart, too. Nothing is removed here.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_fleet::{FleetError, Root, Size};
use cofferdam_records::{ProjectStorage, RecordsError};

use super::Builds;

/// Caches of builders, with all they have beside them.
pub(crate) const CACHE: &str = "cache";
/// Images of the registry.
pub(crate) const REGISTRY: &str = "registry";
/// What steps wrote.
pub(crate) const LOGS: &str = "logs";

/// What was found so long ago, at most, is not looked for again: nobody can keep the disk busy by asking.
const FRESH: TimeDelta = TimeDelta::minutes(1);
/// How long it may take to look through a cache while somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much is done for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// What is not fresh is found out.
    Now,
    /// What was found before does: for many projects at once.
    Kept,
}

/// What something of a project takes of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    /// [`CACHE`], [`REGISTRY`] or [`LOGS`].
    pub(crate) kind: &'static str,
    /// Bytes of the disk.
    pub(crate) bytes: u64,
    /// When that was so.
    pub(crate) at: DateTime<Utc>,
}

impl Figure {
    /// Bytes of one kind among figures; nothing known is nothing.
    pub(crate) fn bytes_of(figures: &[Self], kind: &str) -> u64 {
        figures.iter().find(|figure| figure.kind == kind).map_or(0, |figure| figure.bytes)
    }

    fn kept(rows: &[ProjectStorage], kind: &'static str) -> Option<Self> {
        let row = rows.iter().find(|row| row.kind == kind)?;
        Some(Self { kind, bytes: row.bytes, at: row.measured_at })
    }
}

impl Builds {
    /// What a project takes of the disk, as far as it is known; builders that run are asked in any case.
    pub(crate) async fn storage(
        &self,
        project: &str,
        look: Look,
    ) -> Result<Vec<Figure>, RecordsError> {
        let rows = self.records.project_storage(project).await?;
        let mut figures = Vec::new();
        let (found, kept) = (self.cache(project, look).await, Figure::kept(&rows, CACHE));
        if let Some(found) = &found
            && look == Look::Now
            && kept.as_ref().is_none_or(|kept| kept.bytes != found.bytes)
        {
            self.note(project, CACHE, found.bytes).await;
        }
        figures.extend(found.or(kept));
        for kind in [REGISTRY, LOGS] {
            let kept = Figure::kept(&rows, kind);
            let enough = |kept: &Figure| look == Look::Kept || Utc::now() - kept.at < FRESH;
            let figure = match kept {
                Some(kept) if enough(&kept) => Some(kept),
                kept => self.look_at(project, kind).await.or(kept),
            };
            figures.extend(figure);
        }
        Ok(figures)
    }

    async fn cache(&self, project: &str, look: Look) -> Option<Figure> {
        let known = match self.fleet.cache_size(project).await {
            Ok(None) if look == Look::Now => {
                let measured = tokio::time::timeout(PATIENCE, self.fleet.measure(project)).await;
                match measured.ok()? {
                    Ok(roots) => Ok(Some(Size { bytes: total(&roots), at: SystemTime::now() })),
                    Err(error) => Err(error),
                }
            }
            known => known,
        };
        let known = known.unwrap_or_else(|error: FleetError| {
            tracing::warn!(project, %error, "a cache could not be measured");
            None
        });
        known.map(|Size { bytes, at }| Figure { kind: CACHE, bytes, at: at.into() })
    }

    /// Finds out what images or logs take, and keeps it.
    pub(super) async fn look_at(&self, project: &str, kind: &'static str) -> Option<Figure> {
        let measured = match kind {
            LOGS => self.records.log_bytes(project).await.map_err(|error| error.to_string()),
            _ => self.images.disk_bytes(project).await.map_err(|error| error.to_string()),
        };
        match measured {
            Ok(bytes) => {
                self.note(project, kind, bytes).await;
                Some(Figure { kind, bytes, at: Utc::now() })
            }
            Err(error) => {
                tracing::warn!(project, kind, error, "what a project takes could not be measured");
                None
            }
        }
    }

    /// Keeps what was found.
    pub(super) async fn note(&self, project: &str, kind: &str, bytes: u64) {
        let noted = self.records.set_project_storage(project, kind, bytes, Utc::now()).await;
        if let Err(error) = noted {
            tracing::warn!(project, kind, %error, "what a project takes could not be noted");
        }
    }
}

/// Bytes of roots together.
pub(super) fn total(roots: &[Root]) -> u64 {
    roots.iter().fold(0, |total, root| total.saturating_add(root.bytes))
}
