//! Which directories of a client's tree are brought by a call of their own.
//!
//! A client describes a tree with one thread for each call. What the last transfer found out of a tree's shape is kept beside its
//! mirror, so that the next one can ask for two parts of about the same size at once. It changes how a tree is brought, never what:
//! the other call brings whatever is not named here.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use cofferdam_store::MirrorGuard;
use rustix::fs::{Mode, OFlags};

/// Its file, and the one that takes its place: a path on each line.
const NAME: &str = "apart";
const NEW_NAME: &str = "apart.new";
/// More is not written.
const MAX_BYTES: u64 = 64 << 10;

/// The directories of one mirror, as they were kept.
pub(super) struct Parts {
    state: Option<OwnedFd>,
    kept: String,
}

impl Parts {
    /// Those of the transfer before; none where that is not known.
    pub(super) fn of(guard: &MirrorGuard) -> Self {
        match guard.open_state() {
            Ok(state) => {
                let kept = read(&state).unwrap_or_default();
                Self { state: Some(state), kept }
            }
            Err(_) => Self { state: None, kept: String::new() },
        }
    }

    /// Their paths.
    pub(super) fn apart(&self) -> Vec<String> {
        self.kept.lines().map(str::to_owned).collect()
    }

    /// Keeps what the transfer after this one may bring apart.
    pub(super) fn keep(&self, apart: &[String]) {
        let text: String = apart.iter().flat_map(|path| [path, "\n"]).collect();
        let Some(state) = self.state.as_ref().filter(|_| text != self.kept) else { return };
        if let Err(error) = write(state, &text) {
            tracing::debug!(%error, "the parts of a tree cannot be kept");
        }
    }
}

fn read(state: &OwnedFd) -> io::Result<String> {
    let mut text = String::new();
    open(state, NAME, OFlags::RDONLY)?.take(MAX_BYTES).read_to_string(&mut text)?;
    // One that was not written to its end.
    if text.ends_with('\n') { Ok(text) } else { Ok(String::new()) }
}

fn write(state: &OwnedFd, text: &str) -> io::Result<()> {
    if text.len() as u64 >= MAX_BYTES {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    open(state, NEW_NAME, flags)?.write_all(text.as_bytes())?;
    rustix::fs::renameat(state, NEW_NAME, state, NAME)?;
    Ok(())
}

fn open(state: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(state, name, flags, Mode::RUSR | Mode::WUSR)?))
}
