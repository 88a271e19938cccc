//! Listeners: bound by the supervisor, which may do so where the builder may not, and handed to the builder by descriptor.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, anyhow, bail};
use cofferdam_builder::Listener;

/// Owner and group may talk to the builder, nobody else.
const SOCKET_MODE: u32 = 0o660;

/// Connections that wait to be accepted, as the standard library has it.
const BACKLOG: i32 = 128;

/// Longest `/etc/group` that is read.
const MAX_GROUP_FILE: u64 = 16 << 20;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// `unix://PATH`
    Unix(PathBuf),
    /// `tcp://HOST:PORT`
    Tcp(String),
    /// A server's own socket, never named by an address.
    Server(PathBuf),
    /// Where the builder says what it is doing; one of the first two.
    Debug(Box<Self>),
}

impl Address {
    /// An address for debugging.
    pub(super) fn for_debugging(text: &str) -> anyhow::Result<Self> {
        // BuildKit's daemon takes a bare `HOST:PORT` here.
        let address = match text.contains("://") {
            true => text.parse()?,
            false => Self::Tcp(text.to_owned()),
        };
        Ok(Self::Debug(Box::new(address)))
    }
}

impl FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", address)) if !address.is_empty() => Ok(Self::Tcp(address.to_owned())),
            _ => bail!("invalid address {text:?}: use unix://PATH or tcp://HOST:PORT"),
        }
    }
}

/// Who owns unix sockets, when not whoever runs the supervisor.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Owner {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// Bound listeners, by the names the builder finds them under, and what is to be removed in the end.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) descriptors: Vec<(String, OwnedFd)>,
    pub(super) sockets: Vec<SocketFile>,
}

/// The file of a unix socket. Removed with this value, if it is still the same file.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: [i64; 4],
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same =
            fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if same && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a socket could not be removed");
        }
    }
}

/// Tells a file from another of the same name. Inode numbers alone do not: they are used again at once.
fn identity(metadata: &fs::Metadata) -> [i64; 4] {
    let (device, inode) = (metadata.dev().cast_signed(), metadata.ino().cast_signed());
    [device, inode, metadata.mtime(), metadata.mtime_nsec()]
}

/// Prefixes of descriptor names, which say what kind a listener is.
const UNIX: &str = "unix-";
const TCP: &str = "tcp-";
const SERVER: &str = "server-";
const DEBUG_UNIX: &str = "debug-unix-";
const DEBUG_TCP: &str = "debug-tcp-";

/// Whether the listener of that name is a TCP one.
pub(super) fn is_tcp(name: &str) -> bool {
    name.starts_with(TCP) || name.starts_with(DEBUG_TCP)
}

/// Binds all of `addresses`; none stays bound when one fails.
pub(super) fn bind(addresses: &[Address], owner: Owner) -> anyhow::Result<Bound> {
    let mut bound = Bound::default();
    for (number, address) in addresses.iter().enumerate() {
        match address {
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path, owner)
                    .with_context(|| format!("listen on unix://{}", path.display()))?;
                bound.descriptors.push((format!("{UNIX}{number}"), listener.into()));
                bound.sockets.push(file);
            }
            Address::Server(path) => {
                let (listener, file) = bind_unix(path, Owner::default())
                    .with_context(|| format!("listen on {}", path.display()))?;
                bound.descriptors.push((format!("{SERVER}{number}"), listener.into()));
                bound.sockets.push(file);
            }
            Address::Debug(address) => {
                // Names and numbers of builds are nobody's business but the operator's.
                let inner = bind(std::slice::from_ref(address), Owner::default())?;
                let named = inner.descriptors.into_iter().map(|(_, fd)| {
                    let unix = matches!(**address, Address::Unix(_));
                    (format!("{}{number}", if unix { DEBUG_UNIX } else { DEBUG_TCP }), fd)
                });
                bound.descriptors.extend(named);
                bound.sockets.extend(inner.sockets);
            }
            Address::Tcp(text) => {
                let listener = bind_tcp(text).with_context(|| format!("listen on tcp://{text}"))?;
                bound.descriptors.push((format!("{TCP}{number}"), listener.into()));
            }
        }
    }
    Ok(bound)
}

/// The listeners among the descriptors a builder inherited.
pub(super) fn inherited(descriptors: BTreeMap<String, OwnedFd>) -> Vec<Listener> {
    descriptors
        .into_iter()
        .filter_map(|(name, fd)| {
            if name.starts_with(UNIX) {
                Some(Listener::Unix(fd.into()))
            } else if name.starts_with(TCP) {
                Some(Listener::Tcp(fd.into()))
            } else if name.starts_with(SERVER) {
                Some(Listener::Server(fd.into()))
            } else if name.starts_with(DEBUG_UNIX) {
                Some(Listener::DebugUnix(fd.into()))
            } else if name.starts_with(DEBUG_TCP) {
                Some(Listener::DebugTcp(fd.into()))
            } else {
                None
            }
        })
        .collect()
}

fn bind_unix(path: &Path, owner: Owner) -> anyhow::Result<(UnixListener, SocketFile)> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    remove_stale(path)?;
    let listener = restricted_listener(path)?;
    // What the process's umask took away.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    let file =
        SocketFile { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) };
    if owner.uid.is_some() || owner.gid.is_some() {
        std::os::unix::fs::chown(path, owner.uid, owner.gid).context("change its owner")?;
    }
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// A listener whose file never has more permissions than it is to have, not even for a moment: the file takes its mode from the
/// socket.
fn restricted_listener(path: &Path) -> rustix::io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Makes room for a socket where a dead process left one.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !metadata.file_type().is_socket() {
        bail!("there is something else than a socket");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Ok(fs::remove_file(path)?)
        }
        Err(error) => Err(error).context("try the socket that is there"),
        Ok(_) => bail!("another process listens there"),
    }
}

fn bind_tcp(text: &str) -> anyhow::Result<TcpListener> {
    let addresses: Vec<_> = text.to_socket_addrs()?.collect();
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    if !addresses.iter().all(|address| loopback(address.ip())) {
        tracing::warn!(
            address = text,
            "without --tlscacert, whoever reaches this address can build"
        );
    }
    let listener = TcpListener::bind(addresses.as_slice())?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The number of a group, given by number or by a name in `/etc/group`.
pub(super) fn group_id(group: &str) -> anyhow::Result<u32> {
    use std::io::Read;
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let mut table = String::new();
    fs::File::open("/etc/group")
        .and_then(|file| file.take(MAX_GROUP_FILE).read_to_string(&mut table))
        .context("look up a group in /etc/group")?;
    find_group(&table, group).ok_or_else(|| anyhow!("there is no group {group:?} in /etc/group"))
}

fn find_group(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("unix:///a/b".parse::<Address>().unwrap(), Address::Unix("/a/b".into()));
        assert_eq!("tcp://[::1]:1".parse::<Address>().unwrap(), Address::Tcp("[::1]:1".into()));
        for bad in ["", "unix://", "tcp://", "/a/b", "fd://3", "http://a"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn groups() {
        let table = "root:x:0:\nbroken\nbuild:x:1001:a,b\n";
        assert_eq!(find_group(table, "build"), Some(1001));
        assert_eq!(find_group(table, "broken"), None);
        assert_eq!(find_group(table, "x"), None);
        assert_eq!(group_id("42").unwrap(), 42);
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/builder.sock");
        let address = [Address::Unix(path.clone())];
        let bound = bind(&address, Owner::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        let error = format!("{:#}", bind(&address, Owner::default()).unwrap_err());
        assert!(error.contains("another process listens there"), "{error}");
        // The listener goes, its file stays: as after a kill.
        let Bound { descriptors, sockets } = bound;
        drop(descriptors);
        let again = bind(&address, Owner::default()).unwrap();
        drop(sockets);
        assert!(path.exists(), "the file of another socket was removed");
        drop(again);
        assert!(!path.exists());
        fs::write(&path, "data").unwrap();
        assert!(bind(&address, Owner::default()).is_err());
        assert!(path.exists());
    }

    #[test]
    fn listeners_are_told_by_name() {
        let bound = bind(&[Address::Tcp("127.0.0.1:0".into())], Owner::default()).unwrap();
        let listeners = inherited(bound.descriptors.into_iter().collect());
        assert!(matches!(listeners.as_slice(), [Listener::Tcp(_)]));
    }
}
