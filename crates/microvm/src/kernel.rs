//! The guest's kernel: the newest one installed from Debian's packages, or the one that was named.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

/// Where distributions put kernels and their modules.
const IMAGES: &str = "/boot";
const MODULES: &str = "/lib/modules";
/// Beginning of an image's name; the rest is the version.
const PREFIX: &str = "vmlinuz-";
/// Kernels that are made for virtual machines, preferred among those installed.
const FAVOURED: &str = "cloud";

/// There is no kernel to boot.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// None is installed.
    #[error(
        "no kernel for virtual machines: install linux-image-cloud-amd64, or name an image and its modules with \
         [isolation] vm.kernel and vm.modules"
    )]
    None,
    /// A kernel comes with a directory of modules.
    #[error(
        "the kernel {image} has no modules at {modules}: name their directory with [isolation] vm.modules"
    )]
    NoModules {
        /// The image.
        image: PathBuf,
        /// Where the modules should be.
        modules: PathBuf,
    },
    /// What was named is not there.
    #[error("open the kernel {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The image QEMU loads.
    pub image: PathBuf,
    /// The directory of its modules: the one that holds `kernel/` and `modules.builtin`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The kernel that was named, or else the newest that is installed.
    ///
    /// # Errors
    ///
    /// When there is none, or its modules are missing.
    pub fn find(image: Option<&Path>, modules: Option<&Path>) -> Result<Self, KernelError> {
        match image {
            Some(image) => Self::named(image, modules),
            None => Self::installed(Path::new(IMAGES), Path::new(MODULES)),
        }
    }

    fn named(image: &Path, modules: Option<&Path>) -> Result<Self, KernelError> {
        fs::File::open(image)
            .map_err(|source| KernelError::Open { path: image.to_owned(), source })?;
        let version = image.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
        let modules = match (modules, version) {
            (Some(modules), _) => modules.to_owned(),
            (None, Some(version)) => Path::new(MODULES).join(version),
            (None, None) => MODULES.into(),
        };
        let kernel = Self { image: image.to_owned(), modules };
        kernel
            .whole()
            .then_some(kernel.clone())
            .ok_or(KernelError::NoModules { image: kernel.image, modules: kernel.modules })
    }

    fn installed(images: &Path, modules: &Path) -> Result<Self, KernelError> {
        let entries = fs::read_dir(images).into_iter().flatten().flatten();
        let mut versions: Vec<String> = entries
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(PREFIX)?.to_owned()))
            .collect();
        versions.sort_by(|a, b| {
            let favoured = |version: &str| version.contains(FAVOURED);
            favoured(a).cmp(&favoured(b)).then_with(|| compare(a, b))
        });
        let kernels = versions.into_iter().rev().map(|version| Self {
            image: images.join(format!("{PREFIX}{version}")),
            modules: modules.join(version),
        });
        kernels.into_iter().find(Self::whole).ok_or(KernelError::None)
    }

    fn whole(&self) -> bool {
        self.modules.join("kernel").is_dir()
    }
}

/// Compares versions: numbers as numbers, all else as text.
fn compare(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

fn parts(version: &str) -> Vec<(u64, &str)> {
    version.split(['.', '-']).map(|part| (part.parse().unwrap_or(0), part)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn install(root: &Path, version: &str, modules: bool) {
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(root.join(format!("boot/vmlinuz-{version}")), "").unwrap();
        if modules {
            fs::create_dir_all(root.join(format!("modules/{version}/kernel"))).unwrap();
        }
    }

    #[test]
    fn the_newest_kernel_for_virtual_machines_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let find = || Kernel::installed(&dir.path().join("boot"), &dir.path().join("modules"));
        assert!(matches!(find(), Err(KernelError::None)));
        install(dir.path(), "6.1.0-9-amd64", true);
        assert!(find().unwrap().image.ends_with("vmlinuz-6.1.0-9-amd64"));
        install(dir.path(), "6.1.0-9-cloud-amd64", true);
        install(dir.path(), "6.1.0-56-cloud-amd64", true);
        install(dir.path(), "6.12.0-1-cloud-amd64", false);
        install(dir.path(), "6.18.0-1-amd64", true);
        assert!(find().unwrap().image.ends_with("vmlinuz-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn a_named_kernel_needs_modules() {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path(), "1", false);
        let image = dir.path().join("boot/vmlinuz-1");
        let error = Kernel::find(Some(&image), Some(dir.path())).unwrap_err();
        assert!(error.to_string().contains("vm.modules"), "{error}");
        install(dir.path(), "1", true);
        Kernel::find(Some(&image), Some(&dir.path().join("modules/1"))).unwrap();
        let error = Kernel::find(Some(Path::new("/nowhere")), None).unwrap_err();
        assert!(matches!(error, KernelError::Open { .. }));
    }
}
