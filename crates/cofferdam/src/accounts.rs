//! The servers somebody has logged in to, with their tokens: `cofferdam/config.toml` in the user's configuration.
//!
//! The file is the user's alone. One that others can read is refused: its tokens have to count as known to them.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cofferdam_apiclient::ServerUrl;
use serde::{Deserialize, Serialize};

/// Largest file; each server takes a hundred bytes.
const LARGEST: u64 = 1 << 20;

/// Access that nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// Tokens that cannot be read or stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountsError {
    /// There is no place for them.
    #[error("no place for tokens: set XDG_CONFIG_HOME or HOME")]
    Place,
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{} holds tokens and others can read it: chmod 600 it", path.display())]
    Readable { path: PathBuf },
    /// The file is no such file. The parser's message is left out: it quotes.
    #[error("{} is no configuration of cofferdam", path.display())]
    Syntax { path: PathBuf },
    /// The file cannot be written.
    #[error("write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Everything in the file; keys of later versions stay in it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Accounts {
    /// The server that is meant when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_server: Option<String>,
    /// The builder image of apps without a Dockerfile.
    #[serde(default, rename = "default-builder", skip_serializing_if = "Option::is_none")]
    default_builder: Option<String>,
    #[serde(default)]
    servers: BTreeMap<String, Account>,
    #[serde(flatten)]
    other: BTreeMap<String, toml::Value>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Account {
    token: String,
    #[serde(flatten)]
    other: BTreeMap<String, toml::Value>,
}

impl Accounts {
    /// Where this user's are.
    pub(crate) fn path() -> Result<PathBuf, AccountsError> {
        configuration_directory()
            .map(|directory| directory.join("config.toml"))
            .ok_or(AccountsError::Place)
    }

    /// This user's; none when there is no place for them.
    pub(crate) fn of_this_user() -> Result<Self, AccountsError> {
        Self::path().map_or_else(|_| Ok(Self::default()), |path| Self::load(&path))
    }

    /// Those in `path`; none when there is no such file.
    pub(crate) fn load(path: &Path) -> Result<Self, AccountsError> {
        let failed = |source| AccountsError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file.map_err(failed)?,
        };
        if file.metadata().map_err(failed)?.mode() & OTHERS != 0 {
            return Err(AccountsError::Readable { path: path.to_owned() });
        }
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
        toml::from_str(&text).map_err(|_| AccountsError::Syntax { path: path.to_owned() })
    }

    /// Replaces the file in `path`, whole or not at all.
    pub(crate) fn store(&self, path: &Path) -> Result<(), AccountsError> {
        let failed = |source| AccountsError::Write { path: path.to_owned(), source };
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        replace_private(path, text.as_bytes()).map_err(failed)
    }

    /// The token for a server.
    pub(crate) fn token(&self, server: &ServerUrl) -> Option<&str> {
        self.servers.get(server.as_str()).map(|account| account.token.as_str())
    }

    /// The server that is meant when none is named: the one that was logged in to last, or the only one.
    pub(crate) fn default_server(&self) -> Option<&str> {
        let only = || self.servers.keys().next().filter(|_| self.servers.len() == 1);
        self.default_server.as_ref().or_else(only).map(String::as_str)
    }

    /// The builder image of apps without a Dockerfile, when nobody names another.
    pub(crate) fn default_builder(&self) -> Option<&str> {
        self.default_builder.as_deref().filter(|image| !image.is_empty())
    }

    /// Remembers a login.
    pub(crate) fn log_in(&mut self, server: &ServerUrl, token: &str) {
        let account = Account { token: token.to_owned(), other: BTreeMap::new() };
        self.servers.insert(server.as_str().to_owned(), account);
        self.default_server = Some(server.as_str().to_owned());
    }

    /// Forgets a login; says whether there was one.
    pub(crate) fn log_out(&mut self, server: &ServerUrl) -> bool {
        if self.default_server.as_deref() == Some(server.as_str()) {
            self.default_server = None;
        }
        self.servers.remove(server.as_str()).is_some()
    }
}

/// Where this user's configuration is: `$COFFERDAM_CONFIG_DIR`, else `cofferdam` where configurations are.
pub(crate) fn configuration_directory() -> Option<PathBuf> {
    let directory =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    directory("COFFERDAM_CONFIG_DIR").or_else(|| {
        let base = directory("XDG_CONFIG_HOME")
            .or_else(|| directory("HOME").map(|home| home.join(".config")));
        base.map(|base| base.join("cofferdam"))
    })
}

/// Writes a file that is the user's alone, over one that is there: whole or not at all.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> io::Result<()> {
    // A link in its place stays one.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&partial, &path));
    if written.is_err() {
        std::fs::remove_file(&partial).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn logins_are_remembered_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/cofferdam/config.toml");
        assert!(Accounts::load(&path).unwrap().default_server().is_none());
        let mut accounts = Accounts::default();
        accounts.log_in(&url("https://one.example"), "cfd_one");
        accounts.log_in(&url("http://two.example:8080"), "cfd_two");
        accounts.store(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        let mut accounts = Accounts::load(&path).unwrap();
        assert_eq!(accounts.token(&url("https://one.example/")), Some("cfd_one"));
        assert_eq!(accounts.default_server(), Some("http://two.example:8080"));
        assert!(accounts.log_out(&url("http://two.example:8080")));
        assert!(!accounts.log_out(&url("http://two.example:8080")));
        assert_eq!(accounts.default_server(), Some("https://one.example"), "the only one left");
        accounts.store(&path).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("cfd_two"));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, "").unwrap();
        for (bits, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
            assert_eq!(Accounts::load(&path).is_ok(), fine, "{bits:o}");
        }
        // A new login makes it the user's alone.
        Accounts::default().store(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn what_is_not_understood_is_not_quoted_and_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        };
        write("servers = \"cfd_secret\"");
        let error = Accounts::load(&path).err().unwrap();
        assert!(!format!("{error:?} {error}").contains("secret"), "{error}");
        write("later = 1\n[servers.\"https://h\"]\ntoken = \"t\"\nnote = \"x\"\n");
        let mut accounts = Accounts::load(&path).unwrap();
        accounts.log_in(&url("http://other"), "u");
        accounts.store(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("later = 1") && text.contains("note = \"x\""), "{text}");
    }
}
