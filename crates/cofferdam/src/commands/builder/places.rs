//! Where things are when nobody says otherwise, for root and for an ordinary user.

use std::path::{Path, PathBuf};

/// The configuration that is read when no other is named; it need not exist.
pub(crate) const CONFIG: &str = "/etc/cofferdam/builder.toml";

/// Who is asking, as far as defaults depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum User {
    /// Root of the host.
    Root,
    /// Anybody else, with the directories the environment names.
    Ordinary {
        /// `$XDG_DATA_HOME`, or what stands in for it below the home directory.
        data: Option<PathBuf>,
        /// `$XDG_RUNTIME_DIR`.
        runtime: Option<PathBuf>,
    },
}

/// Default places of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places(User);

impl Places {
    /// Those of whoever started this process.
    pub(crate) fn of_this_user() -> Self {
        if rustix::process::geteuid().is_root() {
            return Self(User::Root);
        }
        let directory = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let data =
            directory("XDG_DATA_HOME").or_else(|| Some(directory("HOME")?.join(".local/share")));
        Self(User::Ordinary { data, runtime: directory("XDG_RUNTIME_DIR") })
    }

    /// A builder's state.
    pub(crate) fn root(&self) -> Option<PathBuf> {
        match &self.0 {
            User::Root => Some(PathBuf::from("/var/lib/cofferdam/builder")),
            User::Ordinary { data, .. } => Some(data.as_ref()?.join("cofferdam/builder")),
        }
    }

    /// The socket of a builder that was not told where to listen.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let runtime: &Path = match &self.0 {
            User::Root => Path::new("/run"),
            User::Ordinary { runtime, .. } => runtime.as_deref()?,
        };
        Some(runtime.join("cofferdam/builder.sock"))
    }
}

impl From<User> for Places {
    fn from(user: User) -> Self {
        Self(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_depend_on_the_user() {
        let root = Places::from(User::Root);
        assert_eq!(root.root(), Some("/var/lib/cofferdam/builder".into()));
        assert_eq!(root.socket(), Some("/run/cofferdam/builder.sock".into()));
        let user = User::Ordinary { data: Some("/home/a/.local/share".into()), runtime: None };
        assert_eq!(
            Places::from(user.clone()).root(),
            Some("/home/a/.local/share/cofferdam/builder".into())
        );
        assert_eq!(Places::from(user).socket(), None);
    }
}
