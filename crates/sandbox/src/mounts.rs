//! Mounts by descriptor: detached file systems, detached binds, and attaching them where a descriptor points.
//!
//! Never by path: a path would be looked up again at the time of the call, and tenants choose what paths lead to. See
//! `fsmount(2)`, `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`; all of them are in Linux 5.12.

use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::namespaces::check;

/// Where the builder keeps files that are about to be mounted into a step, inside its own enclosure.
pub(crate) const FILES: &str = "/run/cofferdam/files";

/// A mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A new file system of this type could not be set up.
    #[error("mount a new {kind}")]
    New {
        /// Type of file system.
        kind: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// An open directory or file could not be cloned as a mount.
    #[error("clone a mount")]
    Clone(#[source] Errno),
    /// The attributes of a mount could not be changed.
    #[error("change the attributes of a mount")]
    Attributes(#[source] Errno),
    /// A mount could not be attached.
    #[error("attach a mount")]
    Attach(#[source] Errno),
    /// A file for a mount could not be written.
    #[error("write a file to mount")]
    File(#[source] std::io::Error),
}

/// Attributes of a mount, as `mount_setattr` takes them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes {
    pub(crate) readonly: bool,
    pub(crate) nosuid: bool,
    pub(crate) nodev: bool,
    pub(crate) noexec: bool,
}

impl Attributes {
    pub(crate) const NONE: Self =
        Self { readonly: false, nosuid: false, nodev: false, noexec: false };
    pub(crate) const READONLY: Self =
        Self { readonly: true, nosuid: false, nodev: false, noexec: false };
    pub(crate) const DATA: Self = Self { readonly: false, nosuid: true, nodev: true, noexec: true };
    pub(crate) const READONLY_DATA: Self =
        Self { readonly: true, nosuid: true, nodev: true, noexec: true };

    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.readonly);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.nosuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.nodev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.noexec);
        flags
    }
}

/// A new, detached file system.
pub(crate) fn new_filesystem(
    kind: &'static CStr,
    options: &[(&str, &str)],
    attributes: Attributes,
) -> Result<OwnedFd, MountError> {
    let make = || {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value)?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes.flags())
    };
    make()
        .map_err(|source| MountError::New { kind: kind.to_str().unwrap_or("file system"), source })
}

/// A clone of the mount at `fd`, with the file or directory `fd` refers to as its root, attached nowhere.
///
/// Must be called in the mount namespace `fd` was opened in. With `recursive`, what is mounted below comes along.
///
/// # Errors
///
/// When the kernel refuses, which it does for descriptors of another mount namespace.
pub fn detached_bind(fd: impl AsFd, recursive: bool) -> Result<OwnedFd, MountError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(fd, c"", flags).map_err(MountError::Clone)
}

/// A new empty directory on a tmpfs of its own, attached nowhere. `owner` is a pair of builder ids.
///
/// # Errors
///
/// When the kernel refuses a tmpfs.
pub fn detached_directory(
    owner: (u32, u32),
    mode: u32,
    size: Option<u64>,
) -> Result<OwnedFd, MountError> {
    let uid = owner.0.to_string();
    let gid = owner.1.to_string();
    let mode = format!("{mode:o}");
    let size = size.map(|bytes| bytes.to_string());
    let mut options = vec![("uid", uid.as_str()), ("gid", gid.as_str()), ("mode", mode.as_str())];
    if let Some(size) = &size {
        options.push(("size", size));
    }
    new_filesystem(c"tmpfs", &options, Attributes { nosuid: true, nodev: true, ..Attributes::NONE })
}

/// A clone of the file or directory `part` beneath the root of the detached mount `mount`. That one is used up: it can be read, but
/// attached and cloned no more.
///
/// Only inside an [`crate::Enclosure`], whose root has a place for it.
///
/// # Errors
///
/// When the kernel refuses.
pub fn detached_part(mount: impl AsFd, part: impl AsFd) -> Result<OwnedFd, MountError> {
    let owned = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(MountError::File);
    crate::mounter::clone_part(owned(mount.as_fd())?, owned(part.as_fd())?)
}

/// What [`detached_part`] does, by a thread that may attach mounts.
pub(crate) fn part_while_attached(mount: OwnedFd, part: OwnedFd) -> Result<OwnedFd, MountError> {
    while_attached(mount, || detached_bind(part, false))
}

/// A file holding `bytes` on a tmpfs of its own, as a mount attached nowhere, gone when nothing refers to it. `owner` is a pair of
/// builder ids.
///
/// Only inside an [`crate::Enclosure`], whose root has a place for it. Meant for secrets and generated files.
///
/// # Errors
///
/// When the file cannot be written or cloned.
pub fn detached_file(bytes: &[u8], owner: (u32, u32), mode: u32) -> Result<OwnedFd, MountError> {
    let failed = |errno: Errno| MountError::File(errno.into());
    let tmpfs = new_filesystem(c"tmpfs", &[("mode", "700")], Attributes::DATA)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&tmpfs, "file", flags, Mode::from_raw_mode(0o600));
    fill(file.map_err(failed)?, bytes, owner, mode)?;
    let file = rustix::fs::openat(&tmpfs, "file", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    detached_part(&tmpfs, file.map_err(failed)?)
}

/// Kernels before 6.15 clone mounts only from where they are attached, so for a moment this one is. What is cloned meanwhile keeps
/// the file system; only its place in the tree goes.
fn while_attached<T>(
    mount: impl AsFd,
    act: impl FnOnce() -> Result<T, MountError>,
) -> Result<T, MountError> {
    let failed = |errno: Errno| MountError::File(errno.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let files = rustix::fs::open(FILES, flags, Mode::empty()).map_err(failed)?;
    let mut nonce = [0_u8; 8];
    rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    let name = format!("{:016x}", u64::from_ne_bytes(nonce));
    rustix::fs::mkdirat(&files, &name, Mode::from_raw_mode(0o700)).map_err(failed)?;
    let place = rustix::fs::openat(&files, &name, flags, Mode::empty()).map_err(failed);
    let done = place.and_then(|place| {
        attach(&mount, place)?;
        let done = act();
        let root = format!("/proc/self/fd/{}", mount.as_fd().as_raw_fd());
        rustix::mount::unmount(root, rustix::mount::UnmountFlags::DETACH)
            .map_err(MountError::Attach)?;
        done
    });
    rustix::fs::unlinkat(&files, &name, AtFlags::REMOVEDIR).map_err(failed)?;
    done
}

fn fill(file: OwnedFd, bytes: &[u8], owner: (u32, u32), mode: u32) -> Result<(), MountError> {
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).map_err(MountError::File)?;
    let owner = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
    rustix::fs::fchown(&file, Some(owner.0), Some(owner.1))
        .map_err(|errno| MountError::File(errno.into()))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
        .map_err(|errno| MountError::File(errno.into()))
}

/// Attaches the detached mount `mount` on top of what `target` refers to.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), MountError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).map_err(MountError::Attach)
}

/// Attaches the detached mount `mount` at `path`, a directory of this crate's own choice.
pub(crate) fn attach_at(mount: impl AsFd, path: &str) -> Result<(), MountError> {
    move_mount(mount, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(MountError::Attach)
}

/// Adds `attributes` to the mount `mount` refers to, and with `recursive` to those below it.
pub(crate) fn restrict(
    mount: impl AsFd,
    attributes: Attributes,
    recursive: bool,
) -> Result<(), MountError> {
    set_attributes(mount, u64::from(attributes.flags().bits()), 0, recursive)
        .map_err(MountError::Attributes)
}

/// Cuts every mount of this namespace off from events in others.
pub(crate) fn make_private() -> Result<(), MountError> {
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(MountError::Attributes)?;
    set_attributes(root, 0, libc::MS_PRIVATE, true).map_err(MountError::Attributes)
}

fn set_attributes(
    mount: impl AsFd,
    set: u64,
    propagation: libc::c_ulong,
    recursive: bool,
) -> Result<(), Errno> {
    /// `struct mount_attr` of linux/mount.h, first version.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attributes = MountAttr { set, clear: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure is valid for the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    check(i32::try_from(result).unwrap_or(-1))
}
