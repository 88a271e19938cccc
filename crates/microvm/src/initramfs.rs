//! The guest's first file tree: this program as `/init`, what it needs, kernel modules, git and ssh when the host has them, and
//! the host's certificate authorities. Nothing in it is secret and nothing in it is a tenant's.
//!
//! Format: `newc` of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, not compressed, because unpacking
//! costs an emulated processor more than reading. The same files give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::closure::{Closure, ClosureError, merged};
use crate::kernel::Kernel;
use crate::machine::Hypervisor;
use crate::modules::{self, ModulesError};
use crate::{elf, guest, kept};

/// Beginning of the names of finished trees.
const PREFIX: &str = "initramfs-";
/// Longest answer of git about itself.
const MAX_ANSWER: u64 = 4096;
/// Most of one file that goes in: more than a debug build of this program.
const MAX_FILE: u64 = 1 << 30;

/// Directories of the host in which programs are looked for.
const PROGRAMS: &[&str] = &["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// What the builder calls, and what git's scripts for submodules call.
const WANTED: &[&str] = &["git", "ssh", "sh", "sed", "basename", "dirname", "uname"];
/// Parts of git that are not the program itself.
const GIT_PARTS: &[&str] =
    &["git-remote-http", "git-remote-https", "git-submodule", "git-sh-setup", "git-sh-i18n"];
/// Bundles of certificate authorities, as distributions name them.
const AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];
/// Directories that the guest mounts on or writes to.
const DIRECTORIES: &[&str] =
    &["/dev", "/proc", "/sys", "/tmp", "/run", "/etc/ssl", "/root", guest::MODULES, guest::DISK];
/// Git's templates, of which none are wanted: it complains when the directory is not there.
const TEMPLATES: &[&str] =
    &["/usr/share/git-core/templates", "/usr/local/share/git-core/templates"];
/// Files whose text is ours.
const TEXTS: &[(&str, &str)] = &[
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "hosts: files dns\n"),
];

/// The tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The programs could not be put together.
    #[error("collect the guest's programs")]
    Programs(#[from] ClosureError),
    /// The modules could not be put together.
    #[error("collect the guest's kernel modules")]
    Modules(#[from] ModulesError),
    /// A file could not be read.
    #[error("read {path} for the guest")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The tree could not be written.
    #[error("write the guest's initramfs to {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// One thing in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    Link(PathBuf),
    Text(Vec<u8>),
    /// The first bytes of a file of the host.
    File {
        source: PathBuf,
        length: u64,
        mode: u32,
    },
}

type Tree = BTreeMap<PathBuf, Entry>;

/// The tree for `kernel` in a machine of `hypervisor`, with `program` as init: taken from `directory` when it is there, else made.
/// Trees of other kernels and programs are removed.
///
/// # Errors
///
/// When a part is missing or the tree cannot be written.
pub fn prepare(
    directory: &Path,
    program: &Path,
    kernel: &Kernel,
    hypervisor: &Hypervisor,
) -> Result<PathBuf, InitramfsError> {
    let tree = collect(program, kernel, hypervisor)?;
    kept::keep(
        directory,
        PREFIX,
        &identity(&tree)?,
        |part| write_file(part, &tree),
        |path, source| InitramfsError::Write { path, source },
    )
}

fn collect(
    program: &Path,
    kernel: &Kernel,
    hypervisor: &Hypervisor,
) -> Result<Tree, InitramfsError> {
    let mut tree = Tree::new();
    for directory in DIRECTORIES.iter().chain(TEMPLATES) {
        tree.insert(directory.into(), Entry::Directory);
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.insert(Path::new("/usr").join(name), Entry::Directory);
        tree.insert(Path::new("/").join(name), Entry::Link(Path::new("usr").join(name)));
    }
    for (path, text) in TEXTS {
        tree.insert(path.into(), Entry::Text(text.as_bytes().to_vec()));
    }
    // The builder in the guest asks the gate, wherever it does not know that by itself.
    let resolver = format!("nameserver {}\n", cofferdam_egress::GATE_ADDRESS);
    tree.insert("/etc/resolv.conf".into(), Entry::Text(resolver.into_bytes()));
    for (number, module) in modules::load_order(&kernel.modules, hypervisor)?.iter().enumerate() {
        let name = format!("{}/{number:03}-{}.ko", guest::MODULES, module.name);
        tree.insert(name.into(), Entry::Text(modules::read(&module.path)?));
    }
    for authority in AUTHORITIES {
        if let Ok(source) = fs::canonicalize(authority) {
            add_file(&mut tree, authority.into(), source, 0o644, None)?;
        }
    }
    add_programs(&mut tree, program)?;
    add_parents(&mut tree);
    Ok(tree)
}

fn add_programs(tree: &mut Tree, program: &Path) -> Result<(), InitramfsError> {
    let mut closure = Closure::default();
    closure.add(Path::new("/init"), program)?;
    let find =
        |name: &str| PROGRAMS.iter().map(|at| Path::new(at).join(name)).find(|p| p.is_file());
    for name in WANTED {
        let Some(source) = find(name) else { continue };
        closure.add(&Path::new("/usr/bin").join(name), &source)?;
    }
    if let Some(parts) = find("git").and_then(|git| exec_path(&git)) {
        for name in GIT_PARTS {
            let source = parts.join(name);
            if !source.is_file() {
                continue;
            }
            if is_program(&source) {
                closure.add(&source, &source)?;
            } else {
                add_file(tree, merged(&source), source, 0o755, None)?;
            }
        }
    }
    for (target, source) in closure.files() {
        let path = source.canonicalize().unwrap_or(source);
        let loaded = elf::headers(&path).map_err(ClosureError::from)?.loaded;
        add_file(tree, target, path, 0o755, Some(loaded))?;
    }
    Ok(())
}

fn add_file(
    tree: &mut Tree,
    target: PathBuf,
    source: PathBuf,
    mode: u32,
    most: Option<u64>,
) -> Result<(), InitramfsError> {
    let metadata = fs::metadata(&source)
        .map_err(|error| InitramfsError::Read { path: source.clone(), source: error })?;
    let length = metadata.len().min(most.unwrap_or(MAX_FILE)).min(MAX_FILE);
    tree.insert(target, Entry::File { source, length, mode });
    Ok(())
}

fn add_parents(tree: &mut Tree) {
    let paths: Vec<PathBuf> = tree.keys().cloned().collect();
    for path in paths {
        for parent in path.ancestors().skip(1) {
            if parent != Path::new("/") {
                tree.entry(parent.to_owned()).or_insert(Entry::Directory);
            }
        }
    }
}

fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

/// Where git keeps its parts. Git is the host's own, and is asked without the caller's environment.
fn exec_path(git: &Path) -> Option<PathBuf> {
    let mut child = Command::new(git)
        .arg("--exec-path")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut answer = String::new();
    let read = child.stdout.take()?.take(MAX_ANSWER).read_to_string(&mut answer);
    child.wait().ok()?;
    read.ok()?;
    let path = Path::new(answer.trim());
    path.is_absolute().then(|| path.to_owned())
}

/// Tells trees apart. Files of the host stand for their content by what changes with it.
fn identity(tree: &Tree) -> Result<String, InitramfsError> {
    let mut digest = Sha256::new();
    let mut field = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for (path, entry) in tree {
        field(path.as_os_str().as_encoded_bytes());
        match entry {
            Entry::Directory => field(b"directory"),
            Entry::Link(target) => field(target.as_os_str().as_encoded_bytes()),
            Entry::Text(text) => field(text),
            Entry::File { source, length, mode } => {
                let found = fs::metadata(source).map_err(|error| InitramfsError::Read {
                    path: source.clone(),
                    source: error,
                })?;
                let identity = [
                    *length,
                    u64::from(*mode),
                    found.dev(),
                    found.ino(),
                    found.mtime().cast_unsigned(),
                    found.mtime_nsec().cast_unsigned(),
                    found.ctime().cast_unsigned(),
                ];
                field(&identity.map(u64::to_le_bytes).concat());
            }
        }
    }
    Ok(hex::encode(digest.finalize()))
}

fn write_file(path: &Path, tree: &Tree) -> Result<(), InitramfsError> {
    let failed = |source| InitramfsError::Write { path: path.to_owned(), source };
    let file = kept::create(path).map_err(failed)?;
    let file = write(tree, BufWriter::with_capacity(1 << 20, file))?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
}

fn write<W: Write>(tree: &Tree, mut out: W) -> Result<W, InitramfsError> {
    for (number, (path, entry)) in (1..).zip(tree) {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        let header = cpio::NewcBuilder::new(name).ino(number);
        let failed = |source: std::io::Error| InitramfsError::Read { path: path.clone(), source };
        let small = |mode: u32, bytes: &[u8], out: W| {
            // Texts are modules at most, which are bounded.
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let mut writer = header.clone().mode(mode).write(out, length);
            writer.write_all(bytes)?;
            writer.finish()
        };
        out = match entry {
            Entry::Directory => small(0o040_755, b"", out),
            Entry::Link(target) => small(0o120_777, target.as_os_str().as_encoded_bytes(), out),
            Entry::Text(text) => small(0o100_644, text, out),
            Entry::File { source, length, mode } => {
                copy(source, *length, 0o100_000 | mode, &header, out)
            }
        }
        .map_err(failed)?;
    }
    cpio::newc::trailer(out)
        .map_err(|source| InitramfsError::Write { path: "the end of the archive".into(), source })
}

fn copy<W: Write>(
    source: &Path,
    length: u64,
    mode: u32,
    header: &cpio::NewcBuilder,
    out: W,
) -> std::io::Result<W> {
    let size = u32::try_from(length).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
    let mut writer = header.clone().mode(mode).write(out, size);
    let copied = std::io::copy(&mut File::open(source)?.take(length), &mut writer)?;
    if copied != length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree(dir: &Path) -> Tree {
        fs::write(dir.join("program"), b"program and debug sections").unwrap();
        let mut tree = Tree::new();
        tree.insert("/usr/bin".into(), Entry::Directory);
        tree.insert("/bin".into(), Entry::Link("usr/bin".into()));
        tree.insert("/etc/hosts".into(), Entry::Text(b"hosts".to_vec()));
        let source = dir.join("program");
        tree.insert("/usr/bin/p".into(), Entry::File { source, length: 7, mode: 0o755 });
        add_parents(&mut tree);
        tree
    }

    #[test]
    fn a_tree_reads_back_and_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = write(&tree(dir.path()), Vec::new()).unwrap();
        assert_eq!(bytes, write(&tree(dir.path()), Vec::new()).unwrap());
        let mut names = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let mut reader = cpio::NewcReader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let entry = reader.entry();
            names.push((entry.name().to_owned(), entry.mode(), content));
            rest = reader.finish().unwrap();
        }
        let directory = |name: &str| (name.to_owned(), 0o040_755, Vec::new());
        assert_eq!(
            names,
            [
                ("bin".to_owned(), 0o120_777, b"usr/bin".to_vec()),
                directory("etc"),
                ("etc/hosts".to_owned(), 0o100_644, b"hosts".to_vec()),
                directory("usr"),
                directory("usr/bin"),
                ("usr/bin/p".to_owned(), 0o100_755, b"program".to_vec()),
            ]
        );
    }

    #[test]
    fn another_content_is_another_tree() {
        let dir = tempfile::tempdir().unwrap();
        let first = identity(&tree(dir.path())).unwrap();
        let same = tree(dir.path());
        let before = identity(&same).unwrap();
        fs::write(dir.path().join("new"), b"program and debug sections").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("program")).unwrap();
        assert_ne!(before, identity(&same).unwrap(), "another file of the same length");
        let mut other = same;
        other.insert("/etc/hosts".into(), Entry::Text(b"other".to_vec()));
        assert_ne!(first, identity(&other).unwrap());
    }
}
