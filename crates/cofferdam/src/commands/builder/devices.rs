//! Declarations of devices (Container Device Interface), read where they are and told to the builder, which cannot see them.
//!
//! The kernel says when something in a directory changed; directories that come later are found by looking again. What is told are the declarations as JSON, all of them each
//! time: a length of four bytes, the least significant first, and a list. What they mean is the builder's business.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
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
    let mut dirs = config.cdi.spec_dirs.clone();
    if dirs.is_empty() {
        dirs = DEFAULT.iter().map(PathBuf::from).collect();
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("make a socket pair")?;
    ours.set_nonblocking(true)?;
    let ours = UnixStream::from_std(ours)?;
    tokio::spawn(tell(dirs, ours));
    Ok(Some(theirs.into()))
}

async fn tell(dirs: Vec<PathBuf>, mut builder: UnixStream) {
    let Ok(changes) = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC) else { return };
    // SAFETY: an owned descriptor is the same and open as long as it lives, and the registration owns it.
    let Ok(changes) = (unsafe { AsyncFd::register(changes) }) else { return };
    let mut told = "[]".to_owned();
    loop {
        for dir in &dirs {
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE;
            // A directory that is not there is looked for again.
            let _ = inotify::add_watch(changes.get_ref(), dir, flags);
        }
        let message = files(&dirs).iter().filter_map(|file| read(file)).collect();
        let message = serde_json::Value::Array(message).to_string();
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

fn read(path: &Path) -> Option<serde_json::Value> {
    let parsed = || -> anyhow::Result<serde_json::Value> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(serde_yaml_ng::from_str(&text)?)
    };
    match parsed() {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "a declaration of devices cannot be read");
            None
        }
    }
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
        let found = files(&[dir.path().to_owned(), "/nonexistent".into()]);
        let kinds: Vec<_> = found.iter().filter_map(|file| read(file)).collect();
        assert_eq!(found.len(), 3);
        assert_eq!(kinds.len(), 2);
        assert_eq!(kinds[0]["kind"], "a.com/d");
    }
}
