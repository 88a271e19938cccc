//! A build context: a directory of its own, made from what a test says.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::images;

/// A directory to build from.
#[derive(Debug)]
pub struct Context(TempDir);

impl Context {
    /// One with these files. In a file whose name has `Dockerfile` in it, `@busybox` and `@python` stand for the base images.
    ///
    /// # Panics
    /// When the directory cannot be written.
    #[must_use]
    pub fn new(files: &[(&str, &str)]) -> Self {
        let context = Self(tempfile::tempdir().unwrap());
        for (path, content) in files {
            context.write(path, content);
        }
        context
    }

    /// One with only a Dockerfile.
    #[must_use]
    pub fn dockerfile(text: &str) -> Self {
        Self::new(&[("Dockerfile", text)])
    }

    /// One whose build is over at once: a single step that does nothing.
    #[must_use]
    pub fn small() -> Self {
        Self::dockerfile("FROM @busybox\nRUN true\n")
    }

    /// Writes a file and the directories above it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let target = self.path().join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let content = content.as_ref();
        if path.contains("Dockerfile") {
            let mut text = String::from_utf8(content.to_vec()).unwrap();
            if text.contains("@busybox") {
                text = text.replace("@busybox", &images::busybox());
            }
            if text.contains("@python") {
                text = text.replace("@python", &images::python());
            }
            fs::write(target, text).unwrap();
        } else {
            fs::write(target, content).unwrap();
        }
        self
    }

    /// Makes a symbolic link.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn link(&self, path: &str, target: &str) -> &Self {
        symlink(target, self.path().join(path)).unwrap();
        self
    }

    /// Sets permission bits.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }
}
