//! What stands around the builder to be found or harmed: files, a process, sockets, shared memory, listeners.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Builder, Process};
use tempfile::TempDir;

use crate::stage::PROBE;

/// What is in every planted file.
pub(crate) const TEXT: &str = "canary-of-the-host-7531";

/// All that was planted.
pub(crate) struct Planted {
    dir: TempDir,
    shm: tempfile::NamedTempFile,
    mark: String,
    process: Process,
    _abstract: UnixListener,
    pub(crate) server: Server,
    /// An address of this machine that others reach it by, where it has one.
    pub(crate) own: String,
    /// Somebody who listens there.
    reachable: String,
    listener: Process,
    key: i32,
    before: BTreeMap<PathBuf, String>,
}

impl Planted {
    pub(crate) fn get() -> &'static Self {
        static PLANTED: OnceLock<Planted> = OnceLock::new();
        PLANTED.get_or_init(Self::new)
    }

    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("walls-canary-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("open", 0o777), ("closed", 0o755)] {
            let directory = dir.path().join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("file"), format!("{TEXT}\n")).unwrap();
            // What runtimes of containers make in /dev, and remove.
            fs::write(directory.join("ptmx"), TEXT).unwrap();
            symlink("file", directory.join("link")).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        }
        let shm = tempfile::Builder::new().prefix("walls-").tempfile_in("/dev/shm").unwrap();
        fs::write(shm.path(), TEXT).unwrap();
        let number = std::process::id();
        let mark = format!("9{:06}", number % 1_000_000);
        let mut sleep = Command::new("sleep");
        sleep.arg(&mark).env("WALLS_CANARY", TEXT);
        let name = SocketAddr::from_abstract_name(format!("walls-{number}")).unwrap();
        let key = 0x0057_0000 | (number & 0xffff) as i32;
        run(&["plant-shm", &key.to_string()]);
        let server = Server::start(|_| Response::ok("reached"));
        let own = own_address().unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = std::net::TcpListener::bind((own.as_str(), 0)).unwrap().local_addr().unwrap();
        let reachable = port.to_string();
        let mut listener = Command::new(PROBE);
        listener.args(["listen", &reachable]);
        let before = hashed(dir.path());
        Self {
            dir,
            shm,
            mark,
            process: Process::start(sleep),
            _abstract: UnixListener::bind_addr(&name).unwrap(),
            server,
            own,
            reachable,
            listener: Process::start(listener),
            key,
            before,
        }
    }

    /// Takes away what does not go by itself.
    pub(crate) fn remove(&self) {
        run(&["remove-shm", &self.key.to_string()]);
        self.process.kill();
        self.listener.kill();
        fs::remove_file(self.shm.path()).ok();
        fs::remove_dir_all(self.dir.path()).ok();
    }

    /// A directory that everybody may write to.
    pub(crate) fn open(&self) -> PathBuf {
        self.dir.path().join("open")
    }

    /// One that only root may write to.
    pub(crate) fn closed(&self) -> PathBuf {
        self.dir.path().join("closed")
    }

    /// Files of these paths exist in steps too, with other content.
    pub(crate) fn paths(&self) -> Vec<String> {
        [self.open(), self.closed()]
            .map(|directory| format!("{}/file", directory.display()))
            .to_vec()
    }

    /// What the probe is told.
    pub(crate) fn facts(&self, builder: &Builder) -> Vec<String> {
        let (port, socket) = (self.server.port(), builder.address());
        vec![
            format!("canary={}/file", self.closed().display()),
            format!("canary-text={TEXT}"),
            format!("abstract=walls-{}", std::process::id()),
            format!("socket={}", socket.trim_start_matches("unix://")),
            format!("mark={}", self.mark),
            format!("pid={}", self.process.pid()),
            format!("shm-key={}", self.key),
            format!("shm-file={}", self.shm.path().display()),
            format!("loopback=127.0.0.1:{port}"),
            format!("own={}", self.reachable),
        ]
    }

    /// Panics when any of the files is not as it was planted.
    pub(crate) fn unchanged(&self) {
        let now = hashed(self.dir.path());
        let changed: Vec<_> = self
            .before
            .keys()
            .chain(now.keys())
            .filter(|path| self.before.get(*path) != now.get(*path))
            .map(|path| (path, self.before.get(path), now.get(path)))
            .collect();
        assert!(changed.is_empty(), "files outside were changed: {changed:?}");
    }
}

/// Everything below a directory by path: owner, mode, times of change, content.
pub(crate) fn hashed(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let content = match metadata.file_type() {
            kind if kind.is_dir() => {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            kind if kind.is_file() => cofferdam_tests::digest(&fs::read(&path).unwrap()),
            kind => format!("{kind:?}"),
        };
        let facts = format!(
            "{}:{} {:o} {} {} {content}",
            metadata.uid(),
            metadata.gid(),
            metadata.mode(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        found.insert(path, facts);
    }
    found
}

fn run(words: &[&str]) {
    assert!(Command::new(PROBE).args(words).status().unwrap().success(), "{words:?}");
}

/// An address of this machine that others reach it by; none on a machine without network.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}
