//! Declarations of devices (Container Device Interface), read where they are and told to the builder, which cannot see them.
//!
//! The kernel says when something in a directory changed; directories that come later are found by looking again. What is told
//! are the declarations as JSON, all of them each time: a length of four bytes, the least significant first, and a list. What they
//! mean is the builder's business.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use cofferdam_builder::Config;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::AsyncWriteExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Where declarations are by default.
const DEFAULT: &[&str] = &["/etc/cdi", "/var/run/cdi"];
/// Between two looks for directories that were not there.
const INTERVAL: Duration = Duration::from_secs(5);
/// Largest declaration, and most files of a directory, that are read.
const MAX_FILE: u64 = 1 << 20;
const MAX_FILES: usize = 1000;

/// Begins to tell of devices; the builder's end of the line is given. None when there are to be no devices.
pub(super) fn watch(config: &Config) -> anyhow::Result<Option<OwnedFd>> {
    if config.cdi.disabled {
        return Ok(None);
    }
    let dirs = directories(config);
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("make a socket pair")?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    tokio::spawn(tell(dirs, ours));
    Ok(Some(theirs.into()))
}

/// For a builder that has no devices of this machine, since it is in another: whoever declared some is told so, once.
pub(super) fn say_that_none_are_given(config: &Config) {
    if !config.cdi.disabled && !files(&directories(config)).is_empty() {
        tracing::warn!(
            "devices are declared here, and builders in virtual machines have none of them"
        );
    }
}

fn directories(config: &Config) -> Vec<PathBuf> {
    match config.cdi.spec_dirs.as_slice() {
        [] => DEFAULT.iter().map(PathBuf::from).collect(),
        named => named.to_vec(),
    }
}

async fn tell(dirs: Vec<PathBuf>, mut builder: UnixStream) {
    let Ok(changes) = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) else { return };
    // SAFETY: an owned descriptor is the same and open as long as it lives, and the registration owns it.
    let Ok(changes) = (unsafe { AsyncFd::register(changes) }) else { return };
    let mut told = "[]".to_owned();
    let mut faults = Faults::new();
    loop {
        for dir in &dirs {
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE;
            // A directory that is not there is looked for again.
            let _ = inotify::add_watch(changes.get_ref(), dir, flags);
        }
        let (declarations, found) = look(&dirs);
        for (file, error) in new_faults(&faults, &found) {
            tracing::warn!(file = %file.display(), %error, "a declaration of devices cannot be read");
        }
        faults = found;
        let message = serde_json::Value::Array(declarations).to_string();
        if message != told {
            let Ok(length) = u32::try_from(message.len()) else { return };
            let sent = async {
                builder.write_u32_le(length).await?;
                builder.write_all(message.as_bytes()).await
            };
            if sent.await.is_err() {
                // The builder has gone.
                return;
            }
            told = message;
        }
        if let Ok(Ok(mut ready)) = tokio::time::timeout(INTERVAL, changes.readable()).await {
            let mut buffer = [0; 4096];
            // What changed does not matter.
            while rustix::io::read(changes.get_ref(), &mut buffer).is_ok_and(|count| count > 0) {}
            ready.clear_ready();
        }
    }
}

/// The declarations there are, by directory and name.
fn files(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for dir in dirs {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        let paths = entries.flatten().take(MAX_FILES).map(|entry| entry.path());
        let mut files: Vec<PathBuf> = paths
            .filter(|path| {
                let extension = path.extension().and_then(|extension| extension.to_str());
                matches!(extension, Some("json" | "yaml" | "yml"))
            })
            .collect();
        files.sort();
        all.append(&mut files);
    }
    all
}

/// What is wrong with declarations, by file.
type Faults = BTreeMap<PathBuf, String>;

/// The declarations that can be read, and what is wrong with the others.
fn look(dirs: &[PathBuf]) -> (Vec<serde_json::Value>, Faults) {
    let (mut declarations, mut faults) = (Vec::new(), Faults::new());
    for file in files(dirs) {
        match read(&file) {
            Ok(declaration) => declarations.push(declaration),
            Err(error) => {
                faults.insert(file, format!("{error:#}"));
            }
        }
    }
    (declarations, faults)
}

/// Those of `found` that were not `known`: each look finds the same ones again.
fn new_faults<'a>(
    known: &'a Faults,
    found: &'a Faults,
) -> impl Iterator<Item = (&'a PathBuf, &'a String)> {
    found.iter().filter(move |(file, fault)| known.get(*file) != Some(*fault))
}

fn read(path: &Path) -> anyhow::Result<serde_json::Value> {
    // It may be a link. A pipe must not keep this process waiting.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(serde_yaml_ng::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn declarations_are_read_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "kind: a.com/d\ndevices: []\n").unwrap();
        fs::write(dir.path().join("b.json"), r#"{"kind":"b.com/d"}"#).unwrap();
        fs::write(dir.path().join("c.txt"), "kind: c.com/d\n").unwrap();
        fs::write(dir.path().join("d.yaml"), ": no : yaml [").unwrap();
        std::os::unix::fs::symlink("a.yaml", dir.path().join("e.yaml")).unwrap();
        let (found, faults) = look(&[dir.path().to_owned(), "/nonexistent".into()]);
        let kinds: Vec<&str> = found.iter().map(|one| one["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["a.com/d", "b.com/d", "a.com/d"]);
        assert_eq!(faults.keys().collect::<Vec<_>>(), [&dir.path().join("d.yaml")]);
    }

    #[test]
    fn a_fault_is_told_once_and_nothing_waits_for_a_pipe() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yaml");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let dirs = [dir.path().to_owned()];
        let (found, first) = look(&dirs);
        assert!(found.is_empty());
        assert_eq!(new_faults(&Faults::new(), &first).count(), 1);
        let (_, second) = look(&dirs);
        assert_eq!(new_faults(&first, &second).count(), 0);
        fs::remove_file(&pipe).unwrap();
        fs::write(&pipe, ": no : yaml [").unwrap();
        let (_, third) = look(&dirs);
        assert_eq!(new_faults(&second, &third).count(), 1, "another fault of the same file");
    }
}
