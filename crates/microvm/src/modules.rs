//! Kernel modules of the guest: which files, in which order, as the modules themselves say.
//!
//! A module names what it needs in its `.modinfo` section, so neither depmod(8) nor its files are needed: a package that was only
//! unpacked serves as well as one that was installed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};

use crate::machine::Hypervisor;

/// Largest module, unpacked; the largest of a distribution's kernel are graphics drivers of some ten megabytes.
const MAX_MODULE: u64 = 64 << 20;
/// Largest list of what is built in.
const MAX_BUILTIN: u64 = 4 << 20;
/// Deepest directory below the modules.
const MAX_DEPTH: usize = 12;

/// The guest cannot do without these, unless they are built into its kernel.
const REQUIRED: &[&str] = &["virtio_mmio", "virtio_blk", "ext4", "overlay", "tun"];
/// Nor without the way to the host that its machine has. It gets no other: what a guest cannot use is only there to be attacked.
const PORT: &str = "virtio_console";
const SOCKET: &str = "vmw_vsock_virtio_transport";
/// Loaded when there.
const OPTIONAL: &[&str] = &["virtio_rng", "crc32c_generic", "crc32c_intel"];

/// The modules could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A directory or file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A module is neither a file nor built in.
    #[error("the kernel of {directory} has no module {name}")]
    Missing {
        /// The directory of modules.
        directory: PathBuf,
        /// The module.
        name: String,
    },
    /// A file is not the module it should be.
    #[error("read the module {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: object::read::Error,
    },
    /// A file is packed in a way that is not known.
    #[error("unpack {path}: only .ko, .ko.xz, .ko.zst and .ko.gz are known")]
    Packing {
        /// The file.
        path: PathBuf,
    },
}

/// A module's name and file on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The modules to load in a machine of `hypervisor`, each after what it needs.
pub(crate) fn load_order(
    directory: &Path,
    hypervisor: &Hypervisor,
) -> Result<Vec<Module>, ModulesError> {
    let mut order = Order {
        directory,
        files: BTreeMap::new(),
        builtin: builtin(directory)?,
        done: BTreeSet::new(),
        modules: Vec::new(),
    };
    order.index(&directory.join("kernel"), 0)?;
    let channel = match hypervisor {
        Hypervisor::Qemu => PORT,
        Hypervisor::Firecracker { .. } => SOCKET,
    };
    for name in REQUIRED.iter().chain([&channel]) {
        order.take(name)?;
    }
    for name in OPTIONAL {
        if order.files.contains_key(*name) {
            order.take(name)?;
        }
    }
    Ok(order.modules)
}

struct Order<'a> {
    directory: &'a Path,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
    done: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    fn index(&mut self, directory: &Path, depth: usize) -> Result<(), ModulesError> {
        let failed = |source| ModulesError::Read { path: directory.to_owned(), source };
        if depth > MAX_DEPTH {
            return Ok(());
        }
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                self.index(&entry.path(), depth + 1)?;
            } else if let Some(name) = module_name(&entry.path()) {
                self.files.insert(name, entry.path());
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str) -> Result<(), ModulesError> {
        if self.builtin.contains(name) || !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.files.get(name).cloned().ok_or_else(|| ModulesError::Missing {
            directory: self.directory.to_owned(),
            name: name.to_owned(),
        })?;
        for needed in depends(&path)? {
            self.take(&needed)?;
        }
        self.modules.push(Module { name: name.to_owned(), path });
        Ok(())
    }
}

/// The name of the module in a file, in the spelling of the kernel.
fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| name.replace('-', "_"))
}

fn builtin(directory: &Path) -> Result<BTreeSet<String>, ModulesError> {
    let path = directory.join("modules.builtin");
    let failed = |source| ModulesError::Read { path: path.clone(), source };
    let mut text = String::new();
    let file = fs::File::open(&path).map_err(failed)?;
    file.take(MAX_BUILTIN).read_to_string(&mut text).map_err(failed)?;
    Ok(text.lines().filter_map(|line| module_name(Path::new(line))).collect())
}

/// The content of a module's file, unpacked.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ModulesError> {
    let failed = |source| ModulesError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => file.take(MAX_MODULE).read_to_end(&mut bytes),
        Some("xz") => {
            lzma_rust2::XzReader::new(file, false).take(MAX_MODULE).read_to_end(&mut bytes)
        }
        Some("zst") => {
            zstd::Decoder::new(file).map_err(failed)?.take(MAX_MODULE).read_to_end(&mut bytes)
        }
        Some("gz") => flate2::read::GzDecoder::new(file).take(MAX_MODULE).read_to_end(&mut bytes),
        _ => return Err(ModulesError::Packing { path: path.to_owned() }),
    }
    .map_err(failed)?;
    Ok(bytes)
}

/// What a module needs, from its `.modinfo` section: strings that each end with a zero byte.
fn depends(path: &Path) -> Result<Vec<String>, ModulesError> {
    let bytes = read(path)?;
    parse_depends(&bytes).map_err(|source| ModulesError::Parse { path: path.to_owned(), source })
}

fn parse_depends(data: &[u8]) -> object::read::Result<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, data)?;
    let Some((_, section)) = sections.section_by_name(endian, b".modinfo") else {
        return Ok(Vec::new());
    };
    let information = section.data(endian, data)?;
    let depends =
        information.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).replace('-', "_");
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_modules() {
        for (file, name) in [
            ("a/virtio-rng.ko", Some("virtio_rng")),
            ("tun.ko.xz", Some("tun")),
            ("tun.korn", None),
            ("modules.order", None),
        ] {
            assert_eq!(module_name(Path::new(file)).as_deref(), name, "{file}");
        }
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kernel")).unwrap();
        fs::write(dir.path().join("modules.builtin"), "kernel/drivers/virtio/virtio_mmio.ko\n")
            .unwrap();
        let error = load_order(dir.path(), &Hypervisor::Qemu).unwrap_err();
        assert!(error.to_string().contains("virtio_blk"), "{error}");
    }

    #[test]
    fn everything_built_in_needs_no_module() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kernel")).unwrap();
        let lines: String =
            REQUIRED.iter().chain([&PORT]).map(|name| format!("kernel/{name}.ko\n")).collect();
        fs::write(dir.path().join("modules.builtin"), lines).unwrap();
        assert_eq!(load_order(dir.path(), &Hypervisor::Qemu).unwrap(), []);
        let other = Hypervisor::Firecracker { program: "/f".into() };
        let error = load_order(dir.path(), &other).unwrap_err();
        assert!(error.to_string().contains(SOCKET), "{error}");
    }

    #[test]
    fn packed_files_are_unpacked() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ko.gz");
        let mut packer = flate2::write::GzEncoder::new(
            fs::File::create(&path).unwrap(),
            flate2::Compression::fast(),
        );
        packer.write_all(b"module").unwrap();
        packer.finish().unwrap();
        assert_eq!(read(&path).unwrap(), b"module");
        let path = dir.path().join("a.ko.zst");
        fs::write(&path, zstd::encode_all(&b"module"[..], 1).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), b"module");
        assert!(matches!(read(&dir.path().join("a.ko.zip")), Err(ModulesError::Read { .. })));
    }
}
