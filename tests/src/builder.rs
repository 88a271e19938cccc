//! `cofferdam builder`: the real program on a socket of its own, with a root of its own, that must leave nothing behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::build::{Build, LOCAL};
use crate::context::Context;
use crate::leftovers;
use crate::places::{is_root, program};
use crate::process::Process;

/// How long a builder may take to answer, on a machine that runs many at once, in emulated machines too.
const START: Duration = Duration::from_secs(90);

/// How long it may take to end when told to.
const STOP: Duration = Duration::from_secs(25);

/// The ordinary user builders are run as by root: `nobody`, who owns nothing else.
const ORDINARY: u32 = 65_534;

/// Subordinate ids given to [`ORDINARY`] for the duration of a test.
const SUBORDINATE: &str = "65534:1500000000:65536\n";

/// Start of an HTTP/2 connection with empty settings; the answer begins with the server's settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// How to run a builder.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Configuration file.
    pub config: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// Run it as an ordinary user with subordinate ids. Needs root.
    pub ordinary: bool,
    /// Size of the file system its root is on; otherwise it is on the disk of temporary files. Needs root.
    pub disk: Option<&'static str>,
    /// A command in front of it, such as one that enters a namespace.
    pub within: Vec<String>,
}

/// The directory of a builder: its root, socket and log. It can be handed from one builder to the next.
#[derive(Debug)]
pub struct Home {
    dir: TempDir,
    mounted: bool,
}

impl Home {
    /// A new one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(options: &Options) -> Arc<Self> {
        let dir = tempfile::Builder::new().prefix("cofferdam-").tempdir().unwrap();
        let mounted = options.disk.is_some();
        if let Some(size) = options.disk {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(dir.path());
            assert!(mount.status().unwrap().success(), "mount a small file system");
        }
        // An ordinary user's builder has to pass through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        if options.ordinary {
            for name in ["root", "run"] {
                chown(dir.path().join(name), Some(ORDINARY), Some(ORDINARY)).unwrap();
            }
        }
        Arc::new(Self { dir, mounted })
    }

    /// The builder's root.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/builder.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.mounted {
            // Without this the directory stays: a test that failed has other troubles.
            Command::new("umount").arg("--lazy").arg(self.dir.path()).status().ok();
        }
    }
}

/// A running builder.
#[derive(Debug)]
pub struct Builder {
    home: Arc<Home>,
    process: Process,
    killed: bool,
}

impl Builder {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(options: &Options) -> Self {
        Self::start_in(Home::new(options), options)
    }

    /// Starts one with everything at its default.
    #[must_use]
    pub fn plain() -> Self {
        Self::start(&Options::default())
    }

    /// Starts one in the home of an earlier one.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn start_in(home: Arc<Home>, options: &Options) -> Self {
        let config = home.dir.path().join("builder.toml");
        fs::write(&config, &options.config).unwrap();
        let mut command = if options.ordinary {
            as_ordinary_user(home.dir.path())
        } else if let [first, rest @ ..] = options.within.as_slice() {
            let mut command = Command::new(first);
            command.args(rest).arg(program());
            command
        } else {
            Command::new(program())
        };
        let log = File::options().create(true).append(true).open(home.log()).unwrap();
        command
            .args([
                "builder",
                "--debug",
                "--addr",
                &format!("unix://{}", home.socket().display()),
                "--root",
            ])
            .arg(home.root())
            .arg("--config")
            .arg(config)
            .args(["--allow-registry", LOCAL])
            .args(&options.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let builder = Self { process: Process::start(command), home, killed: false };
        builder.wait_until_it_answers();
        // Whoever tests from another user's account has to reach it as well.
        if is_root() {
            fs::set_permissions(builder.home.socket(), fs::Permissions::from_mode(0o666)).unwrap();
        }
        builder
    }

    fn wait_until_it_answers(&self) {
        let begun = Instant::now();
        while begun.elapsed() < START {
            if answers(&self.home.socket()).is_ok() {
                return;
            }
            if let Some(status) = self.process.wait(Duration::from_millis(10)) {
                panic!("the builder ended with {status}:\n{}", self.log());
            }
        }
        panic!("the builder does not answer:\n{}", self.log());
    }

    /// `unix://…`
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.home.socket().display())
    }

    /// Its home, to be kept when it goes.
    #[must_use]
    pub fn home(&self) -> Arc<Home> {
        Arc::clone(&self.home)
    }

    /// Its root directory.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.home.root()
    }

    /// The process id of its supervisor.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its messages so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.log()).unwrap_or_default()
    }

    /// A build of a context by this builder.
    #[must_use]
    pub fn build(&self, context: &Context) -> Build {
        Build::new(Some(&self.address()), context.path().to_str().unwrap())
    }

    /// A build of a Dockerfile alone by this builder; gives the image.
    #[must_use]
    pub fn image(&self, dockerfile: &str) -> crate::Image {
        self.build(&Context::dockerfile(dockerfile)).image()
    }

    /// Kills its supervisor, and with it everything, without a chance to clean up. Gives its home.
    ///
    /// # Panics
    /// When a process survives.
    #[must_use]
    pub fn kill(mut self) -> Arc<Home> {
        self.killed = true;
        let tree = leftovers::tree(self.pid());
        self.process.kill();
        assert!(
            gone(|| leftovers::survivors(&tree).is_empty()),
            "left: {:?}",
            leftovers::survivors(&tree)
        );
        self.home()
    }

    /// Ends it in good order and looks for what it left.
    ///
    /// # Panics
    /// When it does not end by itself or leaves something.
    #[must_use]
    pub fn stop(mut self) -> Arc<Home> {
        let home = self.home();
        self.end().unwrap_or_else(|trouble| panic!("{trouble}\n{}", self.log()));
        self.killed = true;
        home
    }

    fn end(&mut self) -> Result<(), String> {
        let tree = leftovers::tree(self.pid());
        self.process.signal(Signal::TERM);
        let status: ExitStatus = self.process.wait(STOP).ok_or("the builder does not end")?;
        if !status.success() {
            return Err(format!("the builder ended with {status}"));
        }
        if !gone(|| leftovers::survivors(&tree).is_empty()) {
            return Err(format!("processes left: {:?}", leftovers::survivors(&tree)));
        }
        let pid = self.pid();
        if !gone(|| leftovers::groups(pid).is_empty()) {
            return Err(format!("control groups left: {:?}", leftovers::groups(pid)));
        }
        let below: Vec<String> = leftovers::mounts(&self.root());
        if !below.is_empty() {
            return Err(format!("mounts left: {below:?}"));
        }
        if self.home.socket().exists() {
            return Err("its socket is left".to_owned());
        }
        Ok(())
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        if self.killed {
            return;
        }
        let ended = self.end();
        if std::thread::panicking() {
            eprintln!("messages of the builder:\n{}", tail(&self.log()));
        } else if let Err(trouble) = ended {
            panic!("{trouble}; its messages:\n{}", tail(&self.log()));
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Gives the kernel a moment.
fn gone(condition: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        let holds = condition();
        if !holds {
            std::thread::sleep(Duration::from_millis(10));
        }
        holds
    })
}

fn answers(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(HELLO)?;
    stream.read_exact(&mut [0; 9])
}

/// The program as an ordinary user. In a mount namespace of its own that user has subordinate ids; the host's tables stay as
/// they are.
fn as_ordinary_user(home: &Path) -> Command {
    let table = home.join("subordinate");
    fs::write(&table, SUBORDINATE).unwrap();
    // Where no device manager runs, only root may open this one; elsewhere everybody may.
    let tun = home.join("tun");
    let script = format!(
        "{{ [ -e {tun} ] || mknod -m 666 {tun} c 10 200; }} && mount --bind {tun} /dev/net/tun && mount --bind {table} /etc/subuid && mount --bind {table} /etc/subgid && \
         exec setpriv --reuid {ORDINARY} --regid {ORDINARY} --clear-groups \"$@\"",
        table = table.display(),
        tun = tun.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(program());
    command
}
