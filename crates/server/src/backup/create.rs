//! Making a backup beside a running server: the records as of one moment, then what they name.
//!
//! What records name was there when they were copied, but for what was lost before. While the copy goes on, a server may delete an
//! image and free its blobs: then the records are copied once more. The data directory is only read, and what in it cannot be
//! read is named and left out: a bad disk is when a backup is needed most.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use chrono::{SecondsFormat, Utc};
use cofferdam_records::Records;
use cofferdam_registry::{Limits, Registry, RegistryOptions, Trouble};
use rustix::io::Errno;

use super::files::{Algorithm, Beneath, Digest, LOGS, RECORDS, is_ours, pour};
use super::manifest::{Entry, LIST, MOST_TROUBLES, Manifest, VERSION};
use super::{BackupError, Summary, failed, is_empty};
use crate::daily::projects;
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
    SERVER.expect(data_dir)?;
    if !data_dir.join(RECORDS).is_file() {
        return Err(BackupError::NoRecords { path: data_dir.to_owned() });
    }
    prepare(data_dir, target)?;
    let to = Beneath::open(target).map_err(failed("open", target))?;
    let mut making = Making {
        data_dir,
        target,
        from: Beneath::open(data_dir).map_err(failed("open", data_dir))?,
        list: BufWriter::new(to.create(LIST).map_err(failed("write in", target))?),
        to,
        files: 0,
        bytes: 0,
        blobs: BTreeMap::new(),
    };
    let live = Records::open_as_is(data_dir).await?;
    let made = making.copy(&live).await;
    live.close().await;
    let (made_at, incomplete) = made?;
    // A server of a newer program may have taken the directory meanwhile.
    let layout = SERVER.expect(data_dir)?;
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
    /// The list of files. Logs are in it once they are copied: there is one for every step of every build.
    list: BufWriter<File>,
    /// How many files are in the list, and their bytes.
    files: u64,
    bytes: u64,
    /// Blobs that were copied, by name. They come into the list last: they may turn out to be damaged.
    blobs: BTreeMap<String, Entry>,
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
            let mut incomplete = Vec::new();
            let absent = self.copy_blobs(&copy, &mut incomplete).await?;
            if !absent.is_empty() && absent != absent_before && round < ROUNDS {
                copy.close().await;
                absent_before = absent;
                continue;
            }
            self.copy_logs(&copy, &mut incomplete).await?;
            let examined = self.examine(&copy, &mut incomplete).await;
            copy.close().await;
            examined?;
            return Ok((made_at, incomplete));
        }
    }

    /// Copies the blobs that the copied records name, but for those that are there; the names of what was not found.
    async fn copy_blobs(
        &mut self,
        copy: &Records,
        incomplete: &mut Vec<String>,
    ) -> Result<BTreeSet<String>, BackupError> {
        let mut absent = BTreeSet::new();
        for project in projects(copy).await? {
            let mut last = String::new();
            loop {
                let named = copy.named_content(&project, &last, BATCH).await?;
                let Some(newest) = named.last().cloned() else { break };
                for digest in named.iter().filter_map(|digest| Digest::parse(digest)) {
                    match self.copy_blob(&project, digest.clone())? {
                        Copied::Whole => {}
                        Copied::Absent => {
                            absent.insert(format!("{project} {digest}"));
                        }
                        Copied::Unreadable(why) => {
                            let blob = format!("project {project}: blob {digest}");
                            tell(incomplete, format!("{blob} cannot be read: {why}"));
                        }
                    }
                }
                last = newest;
            }
        }
        Ok(absent)
    }

    /// Copies a blob. Its digest is computed later, from the copy.
    fn copy_blob(&mut self, project: &str, digest: Digest) -> Result<Copied, BackupError> {
        let path = digest.place(project);
        if self.blobs.contains_key(&path) {
            return Ok(Copied::Whole);
        }
        let mut blob = match self.open(&path)? {
            Ok(blob) => blob,
            Err(otherwise) => return Ok(otherwise),
        };
        let mut created = self.to.create(&path).map_err(failed("write in", self.target))?;
        match io::copy(&mut blob, &mut created) {
            Ok(bytes) => {
                self.blobs.insert(path.clone(), Entry { digest, bytes, path });
                Ok(Copied::Whole)
            }
            Err(error) => self.not_copied(&path, blob, error),
        }
    }

    /// Opens a file of the data directory, or says why it cannot be copied.
    fn open(&self, path: &str) -> Result<Result<File, Copied>, BackupError> {
        match self.from.file(path) {
            Ok(Some(file)) => Ok(Ok(file)),
            Ok(None) => Ok(Err(Copied::Absent)),
            Err(error) if is_ours_alone(&error) => {
                Err(failed("open", &self.data_dir.join(path))(error))
            }
            Err(error) => Ok(Err(Copied::Unreadable(error))),
        }
    }

    /// Removes half a copy, and tells a file that cannot be read from a backup that cannot be written: the file is read again.
    fn not_copied(&self, path: &str, file: File, why: io::Error) -> Result<Copied, BackupError> {
        let place = self.target.join(path);
        std::fs::remove_file(&place).map_err(failed("remove", &place))?;
        if is_ours_alone(&why) || is_readable(file) {
            return Err(failed("write", &place)(why));
        }
        Ok(Copied::Unreadable(why))
    }

    /// Copies the logs of the builds that the copied records have.
    async fn copy_logs(
        &mut self,
        copy: &Records,
        incomplete: &mut Vec<String>,
    ) -> Result<(), BackupError> {
        for project in self.names(LOGS, incomplete)? {
            let of_project = format!("{LOGS}/{project}");
            for build in self.names(&of_project, incomplete)? {
                if copy.build(&build).await?.is_none_or(|found| found.project != project) {
                    continue;
                }
                let of_build = format!("{of_project}/{build}");
                for step in self.names(&of_build, incomplete)? {
                    let path = format!("{of_build}/{step}");
                    // One that was removed meanwhile is left out.
                    if let Copied::Unreadable(why) = self.copy_log(&path)? {
                        tell(incomplete, format!("{path} cannot be read: {why}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies a log as far as it goes now: the build may be running.
    fn copy_log(&mut self, path: &str) -> Result<Copied, BackupError> {
        if !is_ours(path) {
            return Ok(Copied::Absent);
        }
        let log = match self.open(path)? {
            Ok(log) => log,
            Err(otherwise) => return Ok(otherwise),
        };
        let length = match log.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return Ok(Copied::Unreadable(error)),
        };
        let mut created = self.to.create(path).map_err(failed("write in", self.target))?;
        match pour((&log).take(length), &mut created, Algorithm::Sha256) {
            Ok((digest, bytes)) => {
                self.enlist(&Entry { digest, bytes, path: path.to_owned() })?;
                Ok(Copied::Whole)
            }
            Err(error) => self.not_copied(path, log, error),
        }
    }

    /// Adds a file of the backup to the list.
    fn enlist(&mut self, entry: &Entry) -> Result<(), BackupError> {
        write!(self.list, "{entry}").map_err(failed("write in", self.target))?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(entry.bytes);
        Ok(())
    }

    /// Names in a directory, as far as they are ours; none when it is gone or cannot be read, which is told.
    fn names(&self, path: &str, incomplete: &mut Vec<String>) -> Result<Vec<String>, BackupError> {
        let directory = self.data_dir.join(path);
        match names(&directory) {
            Ok(names) => Ok(names),
            Err(error) if is_ours_alone(&error) => Err(failed("read", &directory)(error)),
            Err(error) => {
                tell(incomplete, format!("{path} cannot be read: {error}"));
                Ok(Vec::new())
            }
        }
    }

    /// Reads the copied images again. What was damaged or lost is told, and damaged blobs are left out.
    async fn examine(
        &mut self,
        copy: &Records,
        incomplete: &mut Vec<String>,
    ) -> Result<(), BackupError> {
        let trash = self.target.join("trash");
        let registry = Registry::open_beside(RegistryOptions {
            records: copy.clone(),
            dir: self.target.join(super::files::REGISTRY),
            trash: trash.clone(),
            limits: Limits::default(),
        })?;
        for project in projects(copy).await? {
            let troubles = registry.verify(&project).await;
            let failed = |source| BackupError::Images { project: project.clone(), source };
            for trouble in troubles.map_err(failed)? {
                tell(incomplete, format!("project {project}: {trouble}"));
                self.leave_out(&project, &trouble)?;
            }
        }
        std::fs::remove_dir(&trash).map_err(failed("remove", &trash))
    }

    fn leave_out(&mut self, project: &str, trouble: &Trouble) -> Result<(), BackupError> {
        let (Trouble::Wrong { digest } | Trouble::Unreadable { digest, .. }) = trouble else {
            return Ok(());
        };
        let Some(path) = Digest::parse(digest).map(|digest| digest.place(project)) else {
            return Ok(());
        };
        self.blobs.remove(&path);
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
        let database = self.reread(RECORDS)?;
        self.enlist(&database)?;
        for entry in std::mem::take(&mut self.blobs).values() {
            self.enlist(entry)?;
        }
        self.list.flush().map_err(&writing)?;
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
            files: self.files,
            bytes: self.bytes,
            list: digest.to_string(),
            incomplete,
        };
        manifest.write(self.target)?;
        Ok(manifest.summary())
    }

    /// A file that is in the backup already, as the list has it.
    fn reread(&self, path: &str) -> Result<Entry, BackupError> {
        let reading = failed("read", &self.target.join(path));
        let file = self.to.file(path).map_err(&reading)?;
        let file = file.ok_or_else(|| reading(io::ErrorKind::NotFound.into()))?;
        let (digest, bytes) = pour(file, &mut io::sink(), Algorithm::Sha256).map_err(&reading)?;
        Ok(Entry { digest, bytes, path: path.to_owned() })
    }
}

/// What became of a file of the data directory.
enum Copied {
    Whole,
    /// It is not there.
    Absent,
    /// It is there, and the disk or something in its place says no.
    Unreadable(io::Error),
}

/// Adds a line, unless there are enough of them.
fn tell(incomplete: &mut Vec<String>, line: String) {
    if incomplete.len() < MOST_TROUBLES {
        incomplete.push(line);
    }
}

/// Whether an error is for want of something that this process needs, and says nothing of a file.
fn is_ours_alone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Whether all that a file has now can be read.
fn is_readable(mut file: File) -> bool {
    let length = file.metadata().map(|metadata| metadata.len());
    length.is_ok_and(|length| {
        file.rewind().is_ok() && io::copy(&mut file.take(length), &mut io::sink()).is_ok()
    })
}

/// Names in a directory, as far as they are ours; none when it is gone.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}
