//! Logs of steps: one file for each step, of framed chunks as the step wrote them, cut into lines when they are read.
//!
//! What is in a file came from a step and is bounded when it is written. Files are found beneath the directory of logs only, by
//! ids of ours and the place of a step.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use crate::error::RecordsError;
use crate::page::{Asked, Bounds, Page, PageRequest};
use crate::records::Records;
use crate::row::{micros, time};

const PAGES: Bounds = Bounds { default: 1000, most: 10_000 };
/// Most bytes of one step's log.
const STEP_BYTES: u64 = 16 << 20;
/// Most bytes of one build's logs.
const BUILD_BYTES: u64 = 256 << 20;
/// What is written where a log was cut.
const CUT: &[u8] = b"[log truncated: it is longer than what is kept]\n";
/// Bytes of a chunk's head: time, stream, length.
const HEAD: usize = 13;
/// Longest chunk in one frame.
const MAX_CHUNK: usize = 1 << 20;
/// Longest line; what is longer becomes several.
const MAX_LINE: usize = 64 << 10;
/// Most bytes of lines in one page.
const MAX_PAGE: usize = 3 << 20;

/// A chunk of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Digest of the step that wrote it.
    pub step: String,
    /// 1: standard output, 2: standard error.
    pub stream: u8,
    /// When.
    pub at: DateTime<Utc>,
    /// What, with line ends where the step wrote them.
    pub message: Vec<u8>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When its first part was written.
    pub at: DateTime<Utc>,
    /// 1: standard output, 2: standard error.
    pub stream: u8,
    /// The line without its end; bytes that are not UTF-8 are replaced.
    pub message: String,
}

/// The directory of logs, and how much each running build has written.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: OwnedFd,
    path: PathBuf,
    written: Mutex<HashMap<String, HashMap<u32, u64>>>,
}

fn beneath(at: &OwnedFd, path: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mode =
        if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o600) } else { Mode::empty() };
    Ok(rustix::fs::openat2(at, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, resolve)?)
}

fn directory(at: &OwnedFd, name: &str, make: bool) -> std::io::Result<OwnedFd> {
    if make {
        match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

impl Logs {
    pub(crate) fn open(path: &Path) -> Result<Self, RecordsError> {
        let failed = |source: rustix::io::Errno| RecordsError::File {
            action: "open",
            path: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        Ok(Self { dir, path: path.to_owned(), written: Mutex::default() })
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> RecordsError {
        let path = self.path.clone();
        move |source| RecordsError::File { action, path, source }
    }

    /// Forgets how much a build wrote: it writes no more.
    pub(crate) fn close_build(&self, build: &str) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(build);
    }

    /// How many bytes of a chunk still fit, and whether the log ends with this one.
    fn take(&self, build: &str, ordinal: u32, length: u64) -> (u64, bool) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = written.entry(build.to_owned()).or_default();
        let all: u64 = steps.values().sum();
        let step = steps.entry(ordinal).or_default();
        let room = STEP_BYTES.saturating_sub(*step).min(BUILD_BYTES.saturating_sub(all));
        let full = *step >= STEP_BYTES;
        let given = length.min(room);
        *step += given;
        let cut = given < length && !full;
        if cut {
            *step = STEP_BYTES;
        }
        (given, cut)
    }

    /// What a step has taken of its room.
    fn taken(&self, build: &str, ordinal: u32) -> u64 {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(build).and_then(|steps| steps.get(&ordinal)).copied().unwrap_or(0)
    }

    /// Takes back what was counted for bytes that were not written.
    fn give_back(&self, build: &str, ordinal: u32, before: u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = written.get_mut(build).and_then(|steps| steps.get_mut(&ordinal)) {
            *step = before;
        }
    }

    fn append(
        &self,
        project: &str,
        build: &str,
        chunks: &[(u32, LogEntry)],
    ) -> std::io::Result<()> {
        let project = directory(&self.dir, project, true)?;
        let dir = directory(&project, build, true)?;
        for (ordinal, entry) in chunks {
            let before = self.taken(build, *ordinal);
            let mut bytes = Vec::with_capacity(entry.message.len() + HEAD);
            for chunk in entry.message.chunks(MAX_CHUNK) {
                let (given, cut) = self.take(build, *ordinal, chunk.len() as u64);
                let given = usize::try_from(given).unwrap_or(0).min(chunk.len());
                if given > 0 {
                    frame(&mut bytes, entry, &chunk[..given]);
                }
                if cut {
                    frame(&mut bytes, entry, b"\n");
                    frame(&mut bytes, entry, CUT);
                }
            }
            if let Err(error) = append_whole(&dir, *ordinal, &bytes) {
                self.give_back(build, *ordinal, before);
                return Err(error);
            }
        }
        Ok(())
    }

    fn file(&self, project: &str, build: &str, ordinal: u32) -> std::io::Result<Option<File>> {
        match beneath(&self.dir, &format!("{project}/{build}/{ordinal}"), OFlags::RDONLY) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the logs of a project.
    pub(crate) async fn remove_project(
        self: &Arc<Self>,
        project: &str,
    ) -> Result<(), RecordsError> {
        let project = project.to_owned();
        let action = "remove the logs of a project in";
        self.blocking(action, move |logs| remove(&logs.dir, &project)).await.map(|_| ())
    }

    /// Removes the logs of a build. Returns what they took of the disk.
    pub(crate) async fn remove_build(
        self: &Arc<Self>,
        project: &str,
        build: &str,
    ) -> Result<u64, RecordsError> {
        let (project, build) = (project.to_owned(), build.to_owned());
        self.blocking("remove the logs of a build in", move |logs| {
            opened(&logs.dir, &project)?.map_or(Ok(0), |project| remove(&project, &build))
        })
        .await
    }

    /// What the logs of a project take of the disk.
    pub(crate) async fn measure(self: &Arc<Self>, project: &str) -> Result<u64, RecordsError> {
        let project = project.to_owned();
        self.blocking("measure the logs in", move |logs| measure(&logs.dir, &project)).await
    }

    /// The builds that have logs, each after its project.
    pub(crate) async fn builds(self: &Arc<Self>) -> Result<Vec<(String, String)>, RecordsError> {
        self.blocking("list the logs in", |logs| {
            let mut found = Vec::new();
            for (project, _) in entries(&logs.dir)? {
                let Some(dir) = opened(&logs.dir, &project)? else { continue };
                let builds = entries(&dir)?.into_iter();
                found.extend(builds.map(|(build, _)| (project.clone(), build)));
            }
            Ok(found)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        action: &'static str,
        work: impl FnOnce(&Self) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, RecordsError> {
        let logs = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&logs)).await;
        let done = done.map_err(std::io::Error::other).and_then(|done| done);
        done.map_err(self.failed(action))
    }
}

/// Appends all of it or nothing: what follows half a frame could not be read.
fn append_whole(dir: &OwnedFd, ordinal: u32, bytes: &[u8]) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
    let mut file = File::from(beneath(dir, &ordinal.to_string(), flags)?);
    let before = file.metadata()?.len();
    let written = file.write_all(bytes);
    if written.is_err() {
        file.set_len(before)?;
    }
    written
}

/// A directory, if it is there.
fn opened(at: &OwnedFd, name: &str) -> std::io::Result<Option<OwnedFd>> {
    match directory(at, name, false) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is in a directory, by name, and whether it is a directory.
fn entries(dir: &OwnedFd) -> std::io::Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            found.push((name, entry.file_type() == FileType::Directory));
        }
    }
    Ok(found)
}

/// Removes a directory of directories of files. Returns what they took of the disk.
fn remove(at: &OwnedFd, name: &str) -> std::io::Result<u64> {
    let Some(dir) = opened(at, name)? else { return Ok(0) };
    let mut bytes = 0;
    for (name, is_dir) in entries(&dir)? {
        if is_dir {
            bytes += remove(&dir, &name)?;
        } else {
            bytes += taken_by(&dir, &name)?;
            rustix::fs::unlinkat(&dir, name.as_str(), AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?;
    Ok(bytes)
}

/// What a directory of directories of files takes of the disk. What goes meanwhile takes nothing.
fn measure(at: &OwnedFd, name: &str) -> std::io::Result<u64> {
    let Some(dir) = opened(at, name)? else { return Ok(0) };
    let mut bytes = taken_by(at, name)?;
    for (name, is_dir) in entries(&dir)? {
        bytes += if is_dir { measure(&dir, &name)? } else { taken_by(&dir, &name)? };
    }
    Ok(bytes)
}

/// What one file or directory takes of the disk by itself.
fn taken_by(dir: &OwnedFd, name: &str) -> std::io::Result<u64> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)),
        Err(rustix::io::Errno::NOENT) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn frame(out: &mut Vec<u8>, entry: &LogEntry, message: &[u8]) {
    out.extend(micros(entry.at).to_be_bytes());
    out.push(entry.stream);
    out.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    out.extend(message);
}

/// Reads lines from a position. Returns them, and where to go on if there are more.
fn lines(file: File, from: u64, most: usize) -> std::io::Result<(Vec<LogLine>, Option<u64>)> {
    let mut file = BufReader::new(file);
    file.seek(SeekFrom::Start(from))?;
    let mut reading = Reading { lines: Vec::new(), open: HashMap::new(), bytes: 0 };
    let mut position = from;
    let mut head = [0; HEAD];
    // A page ends where no line is open, so that the position says everything; a log without line ends is cut anyway.
    while (reading.lines.len() < most && reading.bytes < MAX_PAGE) || !reading.open.is_empty() {
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                reading.finish();
                return Ok((reading.lines, None));
            }
            read => read?,
        }
        let [at, stream, length] = [&head[..8], &head[8..9], &head[9..]];
        let at = i64::from_be_bytes(at.try_into().unwrap_or_default());
        let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
        let mut message = vec![0; length.min(MAX_CHUNK)];
        match file.read_exact(&mut message) {
            // The last frame is being written, or was when the machine stopped.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                reading.finish();
                return Ok((reading.lines, None));
            }
            read => read?,
        }
        position += (HEAD + message.len()) as u64;
        reading.take(time(at), stream[0], &message);
        if reading.lines.len() >= most.saturating_mul(2) || reading.bytes >= 2 * MAX_PAGE {
            reading.finish();
        }
    }
    let more = !file.fill_is_empty()?;
    Ok((reading.lines, more.then_some(position)))
}

trait AtEnd {
    fn fill_is_empty(&mut self) -> std::io::Result<bool>;
}

impl AtEnd for BufReader<File> {
    fn fill_is_empty(&mut self) -> std::io::Result<bool> {
        std::io::BufRead::fill_buf(self).map(<[u8]>::is_empty)
    }
}

/// Lines as they come together, each stream for itself.
struct Reading {
    lines: Vec<LogLine>,
    open: HashMap<u8, (DateTime<Utc>, Vec<u8>)>,
    bytes: usize,
}

impl Reading {
    fn take(&mut self, at: DateTime<Utc>, stream: u8, message: &[u8]) {
        for part in message.split_inclusive(|byte| *byte == b'\n') {
            let (began, mut line) = self.open.remove(&stream).unwrap_or((at, Vec::new()));
            let ended = part.ends_with(b"\n");
            line.extend(part.strip_suffix(b"\n").unwrap_or(part));
            while line.len() > MAX_LINE {
                let rest = line.split_off(MAX_LINE);
                self.push(began, stream, &line);
                line = rest;
            }
            if ended {
                self.push(began, stream, &line);
            } else {
                self.open.insert(stream, (began, line));
            }
        }
    }

    fn push(&mut self, at: DateTime<Utc>, stream: u8, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.bytes += line.len();
        self.lines.push(LogLine {
            at,
            stream,
            message: String::from_utf8_lossy(line).into_owned(),
        });
    }

    fn finish(&mut self) {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_key(|(stream, _)| *stream);
        for (stream, (at, line)) in open {
            self.push(at, stream, &line);
        }
    }
}

impl Records {
    /// Appends to the logs of steps that were recorded before; what comes from others is dropped.
    ///
    /// # Errors
    /// The files or the records cannot be written.
    pub async fn append_logs(&self, build: &str, entries: &[LogEntry]) -> Result<(), RecordsError> {
        let Some(found) = self.build(build).await? else { return Ok(()) };
        let mut ordinals: HashMap<&str, Option<u32>> = HashMap::new();
        let mut chunks = Vec::with_capacity(entries.len());
        let mut new = Vec::new();
        for entry in entries {
            let ordinal = match ordinals.get(entry.step.as_str()) {
                Some(known) => *known,
                None => {
                    let step = self.step_by_digest(build, &entry.step).await?;
                    new.extend(
                        step.as_ref().filter(|step| !step.has_logs).map(|step| step.ordinal),
                    );
                    let ordinal = step.map(|step| step.ordinal);
                    ordinals.insert(&entry.step, ordinal);
                    ordinal
                }
            };
            chunks.extend(ordinal.map(|ordinal| (ordinal, entry.clone())));
        }
        let (project, id) = (found.project, build.to_owned());
        let write = move |logs: &Logs| logs.append(&project, &id, &chunks);
        self.logs.blocking("write a log in", write).await?;
        for ordinal in new {
            sqlx::query("UPDATE steps SET has_logs = 1 WHERE build = $1 AND ordinal = $2")
                .bind(build)
                .bind(ordinal)
                .execute(&self.stream)
                .await
                .map_err(RecordsError::database("note that a step has a log"))?;
        }
        Ok(())
    }

    /// Lines of a step's log, oldest first. None when the build has no such step.
    ///
    /// # Errors
    /// A page request that makes no sense, or the log cannot be read.
    pub async fn logs(
        &self,
        build: &str,
        step: &str,
        request: PageRequest<'_>,
    ) -> Result<Option<Page<LogLine>>, RecordsError> {
        let asked = Asked::read(request, format!("logs:{build}:{step}"), &PAGES)?;
        let Some(found) = self.build(build).await? else { return Ok(None) };
        let Some(step) = self.step_by_digest(build, step).await? else { return Ok(None) };
        let from = asked.after.as_ref().map_or(0, |(position, _)| *position);
        let from = u64::try_from(from).map_err(|_| RecordsError::PageToken)?;
        let (logs, most, ordinal) = (Arc::clone(&self.logs), asked.size, step.ordinal);
        let read = tokio::task::spawn_blocking(move || {
            match logs.file(&found.project, &found.id, ordinal)? {
                Some(file) => lines(file, from, most),
                None => Ok((Vec::new(), None)),
            }
        });
        let read = read.await.map_err(std::io::Error::other).and_then(|read| read);
        let (items, next) = read.map_err(self.logs.failed("read a log in"))?;
        let next = next.and_then(|next| i64::try_from(next).ok());
        Ok(Some(Page { items, next: next.map(|next| asked.token(next, String::new())) }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_not_written_is_not_counted() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::open(dir.path()).unwrap();
        assert_eq!(logs.take("b", 0, 10), (10, false));
        let before = logs.taken("b", 0);
        assert_eq!(logs.take("b", 0, STEP_BYTES), (STEP_BYTES - 10, true));
        logs.give_back("b", 0, before);
        assert_eq!(logs.take("b", 0, STEP_BYTES - 10), (STEP_BYTES - 10, false));
        // A build that has ended is not remembered again.
        logs.close_build("b");
        logs.give_back("b", 0, 5);
        assert_eq!(logs.taken("b", 0), 0);
    }
}
