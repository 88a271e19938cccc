//! Firecracker: which program it is, and the description of a machine that it is given.
//!
//! The description is a file in memory that Firecracker inherits, in the format of its `--config-file` (docs/getting-started.md and
//! src/firecracker/swagger/firecracker.yaml of its sources). There is no API socket and no network device, and nothing turns its own
//! filter for system calls off.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use crate::disk::PATH;
use crate::machine::{Machine, PARAMETERS};
use crate::{elf, guest};

/// The program's name.
pub(crate) const PROGRAM: &str = "firecracker";
/// The descriptor that the description is read from.
pub(crate) const DESCRIPTION: i32 = 3;
/// The first version that tells guests about their devices by ACPI, which the kernels of distributions need.
const LEAST: Version = Version(1, 8, 0);
/// Most processors that it gives a guest.
const MOST_CPUS: u32 = 32;
/// Longest answer to `--version` that is read.
const MAX_ANSWER: u64 = 4096;
/// How long it may take to answer that; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// The guest's address; 0 to 2 have other meanings (vsock(7)).
const GUEST: u32 = 3;
/// Kernel parameters that only its guests get: it ends when the keyboard's controller is asked to reset the machine, and has
/// nothing else of a keyboard.
const OWN_PARAMETERS: &str = "reboot=k i8042.noaux i8042.nomux i8042.dumbkbd";

/// There is no Firecracker that can be used.
#[derive(Debug, thiserror::Error)]
pub enum FirecrackerError {
    /// It is nowhere.
    #[error(
        "there is no {PROGRAM} in {PATH}: put the program of a release there, or name it with firecracker in [isolation.vm]"
    )]
    Missing,
    /// It is not where it was said to be.
    #[error("open {path}, which [isolation.vm] names as Firecracker")]
    Open {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The machine's process, which has ids of its own, could not execute it.
    #[error("{0} may not be executed by everybody: chmod a+rx {0}")]
    Mode(PathBuf),
    /// It is none of those that have a filter.
    #[error(
        "{0} is linked with a C library, and so was built with a filter for system calls that lets everything pass: take the \
         program of a release, which is not"
    )]
    Linked(PathBuf),
    /// It cannot be asked.
    #[error("run {path} --version")]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is some other program.
    #[error("{path} --version does not say which Firecracker it is, but: {said}")]
    Unknown {
        /// The program.
        path: PathBuf,
        /// What it said.
        said: String,
    },
    /// It is too old.
    #[error("{path} is Firecracker {found}, and {LEAST} is the least: install a newer one")]
    Old {
        /// The program.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
}

/// A version of Firecracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32, u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Reads the first line of what `--version` says: `Firecracker v1.16.1`, with `-dev` and more behind it at times.
    fn parse(line: &str) -> Option<Self> {
        let version = line.trim().strip_prefix("Firecracker v")?;
        let version = version.split_once(['-', '+']).map_or(version, |(numbers, _)| numbers);
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        let version = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }
}

/// A Firecracker that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firecracker {
    /// The program.
    pub program: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Firecracker {
    /// The program that was named, or else the first one where programs are.
    ///
    /// # Errors
    ///
    /// When there is none, or it is too old.
    pub fn find(named: Option<&Path>) -> Result<Self, FirecrackerError> {
        let program = match named {
            Some(path) => path
                .canonicalize()
                .map_err(|source| FirecrackerError::Open { path: path.to_owned(), source })?,
            None => std::env::split_paths(PATH)
                .map(|directory| directory.join(PROGRAM))
                .find_map(|path| path.canonicalize().ok().filter(|path| path.is_file()))
                .ok_or(FirecrackerError::Missing)?,
        };
        let failed = |source| FirecrackerError::Open { path: program.clone(), source };
        let mode = std::fs::metadata(&program).map_err(failed)?.permissions().mode();
        if mode & 0o5 != 0o5 {
            return Err(FirecrackerError::Mode(program));
        }
        // Only builds for musl, which are not linked with anything, have a filter that refuses something (docs/seccomp.md of its
        // sources). What is no program but starts one is the operator's word for it.
        if elf::headers(&program).is_ok_and(|headers| headers.interpreter.is_some()) {
            return Err(FirecrackerError::Linked(program));
        }
        let said = ask(&program, PATIENCE)
            .map_err(|source| FirecrackerError::Run { path: program.clone(), source })?;
        let line = said.lines().next().unwrap_or_default();
        match Version::parse(line) {
            None => Err(FirecrackerError::Unknown {
                path: program,
                said: crate::console::printable(line),
            }),
            Some(found) if found < LEAST => Err(FirecrackerError::Old { path: program, found }),
            Some(version) => Ok(Self { program, version }),
        }
    }
}

fn ask(program: &Path, patience: Duration) -> io::Result<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (sender, answer) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Ends with the child.
        std::thread::spawn(move || {
            let mut said = Vec::new();
            let read = stdout.take(MAX_ANSWER).read_to_end(&mut said);
            // Nobody waits any more when that took too long.
            sender.send(read.map(|_| said)).ok();
        });
    }
    let said = answer.recv_timeout(patience);
    // Whatever it goes on to do, it was asked and has answered, or never will.
    child.kill().ok();
    child.wait()?;
    let said = said.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// The command line after the program's name. Its complaints go to standard error: they would stand between what the guest says.
pub(crate) fn arguments() -> [OsString; 7] {
    let description = format!("/proc/self/fd/{DESCRIPTION}");
    let log = "/proc/self/fd/2";
    ["--no-api", "--level", "Error", "--log-path", log, "--config-file", &description]
        .map(OsString::from)
}

/// A machine as Firecracker wants it described.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Description<'a> {
    boot_source: BootSource<'a>,
    drives: Vec<Drive<'a>>,
    machine_config: Size,
    #[serde(skip_serializing_if = "Option::is_none")]
    vsock: Option<Vsock<'a>>,
    /// A source of random numbers, with nothing to say about it.
    entropy: Entropy,
}

#[derive(Serialize)]
struct BootSource<'a> {
    kernel_image_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_path: Option<&'a str>,
    boot_args: String,
}

#[derive(Serialize)]
struct Drive<'a> {
    drive_id: &'a str,
    path_on_host: &'a str,
    is_root_device: bool,
    is_read_only: bool,
    /// Without this, what the guest wants written down is not.
    cache_type: &'a str,
}

#[derive(Serialize)]
struct Size {
    vcpu_count: u32,
    mem_size_mib: u64,
}

#[derive(Serialize)]
struct Vsock<'a> {
    guest_cid: u32,
    uds_path: &'a str,
}

#[derive(Serialize)]
struct Entropy {}

/// The description of `machine` with `disk` as the store, whose guest reaches the host at [`listener`] of `channel`.
pub(crate) fn describe(machine: &Machine, disk: &Path, channel: &Path) -> io::Result<Vec<u8>> {
    let description = Description {
        boot_source: BootSource {
            kernel_image_path: text(&machine.kernel)?,
            initrd_path: Some(text(&machine.initramfs)?),
            boot_args: format!("{PARAMETERS} {OWN_PARAMETERS} -- {}", guest::MODE),
        },
        drives: vec![Drive {
            drive_id: "store",
            path_on_host: text(disk)?,
            is_root_device: false,
            is_read_only: false,
            cache_type: "Writeback",
        }],
        machine_config: Size {
            vcpu_count: machine.cpus.min(MOST_CPUS),
            mem_size_mib: machine.memory >> 20,
        },
        vsock: Some(Vsock { guest_cid: GUEST, uds_path: text(channel)? }),
        entropy: Entropy {},
    };
    Ok(serde_json::to_vec(&description)?)
}

/// The description of a machine that boots the kernel at `kernel` with nothing to run: it says so and ends.
pub(crate) fn describe_probe(kernel: &str) -> io::Result<Vec<u8>> {
    let description = Description {
        boot_source: BootSource {
            kernel_image_path: kernel,
            initrd_path: None,
            // Not quiet: the first lines are the sign of life.
            boot_args: format!("console=ttyS0 panic=-1 {OWN_PARAMETERS}"),
        },
        drives: Vec::new(),
        machine_config: Size { vcpu_count: 1, mem_size_mib: 128 },
        vsock: None,
        entropy: Entropy {},
    };
    Ok(serde_json::to_vec(&description)?)
}

/// Where Firecracker looks for somebody to connect the guest to, when that wants to talk to our port of the host (docs/vsock.md of
/// its sources, "Guest-Initiated Connections").
pub(crate) fn listener(channel: &Path) -> PathBuf {
    let mut path = channel.as_os_str().to_owned();
    path.push(format!("_{}", guest::VSOCK_PORT));
    path.into()
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::{Accelerator, Hypervisor};

    fn program(dir: &Path, text: &str, mode: u32) -> PathBuf {
        let path = dir.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn versions() {
        for (line, version) in [
            ("Firecracker v1.16.1", Some(Version(1, 16, 1))),
            ("Firecracker v1.8.0-dev", Some(Version(1, 8, 0))),
            ("Firecracker v1.8", None),
            ("Firecracker v1.8.0.1", None),
            ("QEMU emulator version 7.2", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(line), version, "{line}");
        }
        assert!(Version(1, 10, 0) > LEAST && Version(1, 7, 9) < LEAST);
    }

    #[test]
    fn a_program_is_asked_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let find = |text: &str, mode| Firecracker::find(Some(&program(dir.path(), text, mode)));
        let found = find("echo Firecracker v1.16.1; echo", 0o755).unwrap();
        assert_eq!(found.version.to_string(), "1.16.1");
        let told = |result: Result<Firecracker, FirecrackerError>| result.unwrap_err().to_string();
        let old = told(find("echo Firecracker v1.4.1", 0o755));
        assert!(old.contains("1.4.1") && old.contains("1.8.0 is the least"), "{old}");
        let other = told(find("printf 'something \\033[2Jelse\\n'", 0o755));
        assert!(other.ends_with("but: something [2Jelse"), "{other:?}");
        assert!(told(find("echo Firecracker v1.16.1", 0o700)).contains("chmod a+rx"));
        let linked = told(Firecracker::find(Some(&std::env::current_exe().unwrap())));
        assert!(linked.contains("is linked with a C library"), "{linked}");
        // One that never ends says more than is read, and is ended.
        let endless = find("while :; do echo Firecracker v1.16.1; done", 0o755).unwrap();
        assert_eq!(endless.version, Version(1, 16, 1));
        // One that says nothing is not waited for.
        let silent = program(dir.path(), "exec /bin/sleep 60", 0o755);
        let error = ask(&silent, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let nowhere = told(Firecracker::find(Some(Path::new("/nowhere/firecracker"))));
        assert!(nowhere.contains("/nowhere/firecracker"), "{nowhere}");
    }

    #[test]
    fn a_machine_has_a_disk_a_socket_and_no_network() {
        let machine = Machine {
            hypervisor: Hypervisor::Firecracker { program: "/f".into() },
            kernel: "/k".into(),
            initramfs: "/i".into(),
            accelerator: Accelerator::Kvm,
            memory: 1 << 30,
            cpus: 64,
        };
        let text = describe(&machine, Path::new("/store/disk"), Path::new("/tmp/c")).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let keys: Vec<&str> = found.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["boot-source", "drives", "entropy", "machine-config", "vsock"]);
        assert_eq!(found["machine-config"]["vcpu_count"], 32);
        assert_eq!(found["machine-config"]["mem_size_mib"], 1024);
        assert_eq!(found["drives"].as_array().unwrap().len(), 1);
        let line = found["boot-source"]["boot_args"].as_str().unwrap();
        assert!(line.contains("reboot=k") && line.ends_with("-- __guest"), "{line}");
        // The kernel takes the last of two, and one is enough.
        assert_eq!(line.matches("reboot=").count(), 1, "{line}");
        assert_eq!(listener(Path::new("/tmp/c")), Path::new("/tmp/c_1024"));
        let line: Vec<_> =
            arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(!line.iter().any(|word| word.contains("seccomp")), "{line:?}");
    }
}
