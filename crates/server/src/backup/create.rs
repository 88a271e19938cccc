//! Making a backup beside a running server: the records as of one moment, then what they name.
//!
//! What records name was there when they were copied, but for what was lost before. While the copy goes on, a server may delete an
//! image and free its blobs: then the records are copied once more. The data directory is only read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use cofferdam_records::Records;
use cofferdam_registry::{Limits, Registry, RegistryOptions, Trouble};

use super::files::{Algorithm, Beneath, Digest, LOGS, RECORDS, is_ours, pour};
use super::manifest::{Entry, LIST, MOST_TROUBLES, Manifest, VERSION};
use super::{BackupError, Summary, failed, is_empty, projects};
use crate::layout::SERVER;

/// Times the records are copied before what is not there is taken for lost.
const ROUNDS: usize = 5;
/// Digests that are listed at a time.
const BATCH: usize = 1000;

/// Makes a backup of a data directory, whether a server uses it or not.
///
/// # Errors
/// The data directory is none that this program can read, or the backup cannot be written. What was written until then is no backup.
pub async fn create(data_dir: &Path, target: &Path) -> Result<Summary, BackupError> {
    let layout = SERVER.expect(data_dir)?;
    if !data_dir.join(RECORDS).is_file() {
        return Err(BackupError::NoRecords { path: data_dir.to_owned() });
    }
    prepare(data_dir, target)?;
    let mut making = Making {
        data_dir,
        target,
        from: Beneath::open(data_dir).map_err(failed("open", data_dir))?,
        to: Beneath::open(target).map_err(failed("open", target))?,
        entries: BTreeMap::new(),
    };
    let live = Records::open_as_is(data_dir).await?;
    let made = making.copy(&live).await;
    live.close().await;
    let (made_at, incomplete) = made?;
    making.finish(layout, made_at, incomplete)
}

/// Makes the directory of a backup.
fn prepare(data_dir: &Path, target: &Path) -> Result<(), BackupError> {
    if !is_empty(target, &[])? {
        return Err(BackupError::NotEmpty { path: target.to_owned() });
    }
    let create = DirBuilder::new().recursive(true).mode(0o700).create(target);
    create.map_err(failed("create", target))?;
    let place = target.canonicalize().map_err(failed("open", target))?;
    if place.starts_with(data_dir.canonicalize().map_err(failed("open", data_dir))?) {
        // It is empty, and may have been there before.
        std::fs::remove_dir(target).ok();
        return Err(BackupError::Inside { path: target.to_owned() });
    }
    Ok(())
}

struct Making<'a> {
    data_dir: &'a Path,
    target: &'a Path,
    from: Beneath,
    to: Beneath,
    /// Files that were copied, by name.
    entries: BTreeMap<String, Entry>,
}

impl Making<'_> {
    /// Copies everything; when the records were copied, and what was missing or damaged.
    async fn copy(&mut self, live: &Records) -> Result<(String, Vec<String>), BackupError> {
        let mut absent_before = BTreeSet::new();
        let mut round = 0;
        loop {
            round += 1;
            let made_at = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
            let database = self.target.join(RECORDS);
            match std::fs::remove_file(&database) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &database)(error));
                }
                _ => {}
            }
            live.backup_to(&database).await?;
            let copy = Records::open_as_is(self.target).await?;
            let absent = self.copy_blobs(&copy).await?;
            if !absent.is_empty() && absent != absent_before && round < ROUNDS {
                copy.close().await;
                absent_before = absent;
                continue;
            }
            self.copy_logs(&copy).await?;
            let incomplete = self.examine(&copy).await;
            copy.close().await;
            return Ok((made_at, incomplete?));
        }
    }

    /// Copies the blobs that the copied records name, but for those that are there; the names of what was not found.
    async fn copy_blobs(&mut self, copy: &Records) -> Result<BTreeSet<String>, BackupError> {
        let mut absent = BTreeSet::new();
        for project in projects(copy).await? {
            let mut last = String::new();
            loop {
                let named = copy.named_content(&project, &last, BATCH).await?;
                let Some(newest) = named.last().cloned() else { break };
                for digest in named.iter().filter_map(|digest| Digest::parse(digest)) {
                    if !self.copy_blob(&project, digest.clone())? {
                        absent.insert(format!("{project} {digest}"));
                    }
                }
                last = newest;
            }
        }
        Ok(absent)
    }

    /// Copies a blob; false when it is not there. Its digest is computed later, from the copy.
    fn copy_blob(&mut self, project: &str, digest: Digest) -> Result<bool, BackupError> {
        let path = digest.place(project);
        if self.entries.contains_key(&path) {
            return Ok(true);
        }
        let place = self.data_dir.join(&path);
        let Some(mut blob) = self.from.file(&path).map_err(failed("open", &place))? else {
            return Ok(false);
        };
        let created = self.to.create(&path).map_err(failed("write in", self.target));
        let bytes = io::copy(&mut blob, &mut created?).map_err(failed("copy", &place))?;
        self.entries.insert(path.clone(), Entry { digest, bytes, path });
        Ok(true)
    }

    /// Copies the logs of the builds that the copied records have.
    async fn copy_logs(&mut self, copy: &Records) -> Result<(), BackupError> {
        let logs = self.data_dir.join(LOGS);
        for project in names(&logs)? {
            for build in names(&logs.join(&project))? {
                if !copy.build(&build).await?.is_some_and(|found| found.project == project) {
                    continue;
                }
                for step in names(&logs.join(&project).join(&build))? {
                    self.copy_log(format!("{LOGS}/{project}/{build}/{step}"))?;
                }
            }
        }
        Ok(())
    }

    /// Copies a log as far as it goes now: the build may be running. One that was removed is left out.
    fn copy_log(&mut self, path: String) -> Result<(), BackupError> {
        let place = self.data_dir.join(&path);
        let copying = failed("copy", &place);
        if !is_ours(&path) {
            return Ok(());
        }
        let Some(log) = self.from.file(&path).map_err(&copying)? else { return Ok(()) };
        let length = log.metadata().map_err(&copying)?.len();
        let mut created = self.to.create(&path).map_err(failed("write in", self.target))?;
        let (digest, bytes) =
            pour(log.take(length), &mut created, Algorithm::Sha256).map_err(copying)?;
        self.entries.insert(path.clone(), Entry { digest, bytes, path });
        Ok(())
    }

    /// Reads the copied images again. What was damaged or lost is told, and damaged blobs are left out.
    async fn examine(&mut self, copy: &Records) -> Result<Vec<String>, BackupError> {
        let trash = self.target.join("trash");
        let registry = Registry::open_beside(RegistryOptions {
            records: copy.clone(),
            dir: self.target.join(super::files::REGISTRY),
            trash: trash.clone(),
            limits: Limits::default(),
        })?;
        let mut incomplete = Vec::new();
        for project in projects(copy).await? {
            let troubles = registry.verify(&project).await;
            let failed = |source| BackupError::Images { project: project.clone(), source };
            for trouble in troubles.map_err(failed)? {
                if incomplete.len() < MOST_TROUBLES {
                    incomplete.push(format!("project {project}: {trouble}"));
                }
                self.leave_out(&project, &trouble)?;
            }
        }
        std::fs::remove_dir(&trash).map_err(failed("remove", &trash))?;
        Ok(incomplete)
    }

    fn leave_out(&mut self, project: &str, trouble: &Trouble) -> Result<(), BackupError> {
        let (Trouble::Wrong { digest } | Trouble::Unreadable { digest, .. }) = trouble else {
            return Ok(());
        };
        let Some(path) = Digest::parse(digest).map(|digest| digest.place(project)) else {
            return Ok(());
        };
        self.entries.remove(&path);
        let place = self.target.join(path);
        std::fs::remove_file(&place).map_err(failed("remove", &place))
    }

    /// Writes the list and the manifest, once all the rest is on the disk.
    fn finish(
        mut self,
        layout: u32,
        made_at: String,
        incomplete: Vec<String>,
    ) -> Result<Summary, BackupError> {
        let writing = failed("write in", self.target);
        // Only now: opening the copy may have changed its first page.
        let database = self.from_target(RECORDS)?;
        self.entries.insert(RECORDS.to_owned(), database);
        let mut list = BufWriter::new(self.to.create(LIST).map_err(&writing)?);
        for entry in self.entries.values() {
            write!(list, "{entry}").map_err(&writing)?;
        }
        list.flush().map_err(&writing)?;
        drop(list);
        let file = self.to.file(LIST).map_err(&writing)?.ok_or_else(|| {
            failed("open the list in", self.target)(io::ErrorKind::NotFound.into())
        })?;
        let (digest, _) = pour(file, &mut io::sink(), Algorithm::Sha256).map_err(&writing)?;
        self.to.sync().map_err(failed("write to the disk", self.target))?;
        let manifest = Manifest {
            version: VERSION,
            program: concat!("cofferdam ", env!("CARGO_PKG_VERSION")).to_owned(),
            made_at,
            layout,
            files: self.entries.len() as u64,
            bytes: self.entries.values().map(|entry| entry.bytes).sum(),
            list: digest.to_string(),
            incomplete,
        };
        manifest.write(self.target)?;
        Ok(manifest.summary())
    }

    /// A file that is in the backup already, as the list has it.
    fn from_target(&self, path: &str) -> Result<Entry, BackupError> {
        let reading = failed("read", &self.target.join(path));
        let file = self.to.file(path).map_err(&reading)?;
        let file = file.ok_or_else(|| reading(io::ErrorKind::NotFound.into()))?;
        let (digest, bytes) = pour(file, &mut io::sink(), Algorithm::Sha256).map_err(&reading)?;
        Ok(Entry { digest, bytes, path: path.to_owned() })
    }
}

/// Names in a directory, as far as they are ours; none when it is gone.
fn names(directory: &Path) -> Result<Vec<String>, BackupError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", directory))?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}
