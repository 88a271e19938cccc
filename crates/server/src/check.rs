//! Whether a data directory is whole: its layout, its records, and the images that the records name.
//!
//! Everything is read and nothing is changed, also while a server uses the directory. Stores of builders are not looked at: they
//! belong to other ids, and are looked after by their builders.

use std::path::{Path, PathBuf};

use cofferdam_records::{Records, RecordsError};
use cofferdam_registry::{CollectError, Limits, OpenRegistryError, Registry, RegistryOptions};

use crate::daily::projects;
use crate::layout::{LayoutError, SERVER};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// Version of the directory's layout.
    pub layout: u32,
    /// Projects whose images were read.
    pub projects: usize,
    /// Builds that run, or whose end was not recorded.
    pub running: usize,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// A data directory could not be checked to the end.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is nothing to check.
    #[error("{} has no records: it is no server's data directory", path.display())]
    NoRecords {
        /// The directory.
        path: PathBuf,
    },
    /// Logs are kept beside the records from the first start on.
    #[error("{} is gone, and logs of builds with it: a server makes it anew when it starts", path.display())]
    NoLogs {
        /// Where they were.
        path: PathBuf,
    },
    /// The version of the directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The records, which may be damage too.
    #[error("check the records")]
    Records(#[from] RecordsError),
    /// The registry's directory.
    #[error(transparent)]
    Registry(#[from] OpenRegistryError),
    /// Images of a project.
    #[error("check the images of project {project}")]
    Images {
        /// The project.
        project: String,
        /// Why it did not work.
        #[source]
        source: CollectError,
    },
}

/// The layout's version and that of the records, without reading more of a data directory.
///
/// # Errors
/// One of them is none that this program can work with as it is, or there are no records.
pub async fn versions(data_dir: &Path) -> Result<u32, CheckError> {
    let (layout, records) = open(data_dir).await?;
    records.close().await;
    Ok(layout)
}

/// Reads all of a data directory but its builders' stores.
///
/// # Errors
/// It is none that this program can read. Then what is wrong is the error.
pub async fn check(data_dir: &Path) -> Result<Checked, CheckError> {
    let (layout, records) = open(data_dir).await?;
    let checked = look(data_dir, layout, &records).await;
    records.close().await;
    checked
}

async fn open(data_dir: &Path) -> Result<(u32, Records), CheckError> {
    let layout = SERVER.expect(data_dir)?;
    if !data_dir.join("records.db").is_file() {
        return Err(CheckError::NoRecords { path: data_dir.to_owned() });
    }
    let logs = data_dir.join("logs");
    // Opening the records would make it.
    if !logs.is_dir() {
        return Err(CheckError::NoLogs { path: logs });
    }
    Ok((layout, Records::open_as_is(data_dir).await?))
}

async fn look(data_dir: &Path, layout: u32, records: &Records) -> Result<Checked, CheckError> {
    let found = records.check().await?;
    let mut problems: Vec<String> =
        found.damage.iter().map(|damage| format!("records: {damage}")).collect();
    for (table, count) in &found.stray_rows {
        problems.push(format!("records: {count} rows of {table} belong to no build"));
    }
    problems.extend(found.stray_logs.iter().map(|log| format!("logs: {log} is no build's")));
    let projects = projects(records).await?;
    let dir = data_dir.join("registry");
    // Nothing is made here, and there is none before the first server, nor in a restored directory without images.
    let registry = if dir.is_dir() {
        Some(Registry::open_beside(RegistryOptions {
            records: records.clone(),
            // Nothing is thrown away here: it only has to be there.
            trash: dir.clone(),
            dir,
            limits: Limits::default(),
        })?)
    } else {
        None
    };
    for project in &projects {
        let Some(registry) = &registry else {
            if !records.named_content(project, "", 1).await?.is_empty() {
                problems.push(format!("project {project}: all images are gone with the registry"));
            }
            continue;
        };
        let failed = |source| CheckError::Images { project: project.clone(), source };
        let troubles = registry.verify(project).await.map_err(failed)?;
        problems.extend(troubles.iter().map(|trouble| format!("project {project}: {trouble}")));
    }
    Ok(Checked { layout, projects: projects.len(), running: found.running.len(), problems })
}
