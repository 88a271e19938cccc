//! A small disk that a test fills and empties while somebody works on it. Needs root.
//!
//! Never to be used on a disk that is anybody else's: what is free there is taken.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Files that a disk has room for when it is to have enough.
const MANY: u64 = 1 << 20;

/// How often the filler is made to fit while others write.
const TRIES: usize = 100;

/// A file system in memory, known by the directory that it is mounted on.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    /// Whether it goes with this value.
    own: bool,
}

impl Disk {
    /// The one that is mounted on a directory, as that of a [`crate::Builder`] with its own disk.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), own: false }
    }

    /// Mounts one of `size` (such as `64m`) on a directory, where others may pass through.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(directory: &Path, size: &str) -> Self {
        let options = format!("size={size},mode=0711");
        let mounted = mount(&["-t", "tmpfs", "-o", &options, "none"], directory);
        assert!(mounted, "mount {size} on {}", directory.display());
        Self { directory: directory.to_owned(), own: true }
    }

    fn filler(&self) -> PathBuf {
        self.directory.join("filler")
    }

    /// Leaves so many bytes, and room for any number of files.
    ///
    /// # Panics
    /// When it cannot be filled.
    pub fn leave_bytes(&self, bytes: u64) {
        self.release();
        let file = File::create(self.filler()).unwrap();
        for _ in 0..TRIES {
            let disk = statvfs(&self.directory).unwrap();
            let free = disk.f_bavail * disk.f_frsize;
            let Some(length) = free.checked_sub(bytes).filter(|length| *length > 0) else { return };
            // Somebody else may have taken a part of it meanwhile.
            if fallocate(&file, FallocateFlags::empty(), 0, length).is_ok() {
                return;
            }
        }
        panic!("{} cannot be filled", self.directory.display());
    }

    /// Leaves room for so many files, and all bytes.
    ///
    /// # Panics
    /// When that cannot be set.
    pub fn leave_files(&self, files: u64) {
        fs::remove_file(self.filler()).ok();
        // Less than there are at that moment cannot be set, and somebody else may be making one.
        let set = (0..TRIES).any(|_| {
            let disk = statvfs(&self.directory).unwrap();
            let most = disk.f_files - disk.f_ffree + files;
            mount(&["-o", &format!("remount,nr_inodes={most}")], &self.directory)
        });
        assert!(set, "the number of files of {} cannot be set", self.directory.display());
    }

    /// Leaves everything that is there.
    ///
    /// # Panics
    /// When that cannot be set.
    pub fn release(&self) {
        self.leave_files(MANY);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.own {
            // Without this the directory stays: a test that failed has other troubles.
            Command::new("umount").arg("--lazy").arg(&self.directory).status().ok();
        }
    }
}

fn mount(args: &[&str], directory: &Path) -> bool {
    Command::new("mount").args(args).arg(directory).status().unwrap().success()
}
