//! Detached mounts of trees: what a step, an exporter or a differ sees of layers.
//!
//! Overlay is always mounted with `userxattr`: inside a user namespace a mount without it fails
//! on the first replaced directory. Layers are named by descriptor where the kernel can
//! (Linux 6.13), by `/proc/self/fd` after that (6.5), and by short relative paths on older
//! kernels. Nothing here appears in any mount namespace, except for a moment in the last case.
//! A writable mount never honours device nodes; it does honour set-user-id files, which a step
//! may need and which mean nothing outside its user namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::layer::{ActiveLayer, Layer};
use crate::mount_legacy;
use crate::mounter;
use crate::root::unlink;
use crate::store::Store;
use crate::tree::Tree;

/// The kernel's limit of lower directories of one overlay.
const MAX_LOWER: usize = 500;
/// Room for one message of the kernel about a mount that failed.
const MESSAGE_BYTES: usize = 1024;
/// How many of them are read at most.
const MAX_MESSAGES: usize = 8;

/// Mounting a tree failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// A layer's directory cannot be opened.
    #[error("cannot open a layer to mount it")]
    Open {
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses a step of the mount.
    #[error("cannot {attempt}{}", detail(message))]
    Kernel {
        /// What was tried.
        attempt: &'static str,
        /// What the kernel said about it; may be empty.
        message: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The tree has more layers than this kernel can show.
    #[error("{count} layers are more than this kernel can mount")]
    TooManyLayers {
        /// How many there are.
        count: usize,
    },
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl MountError {
    pub(crate) const fn open(source: io::Error) -> Self {
        Self::Open { source }
    }

    pub(crate) fn kernel(attempt: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Kernel { attempt, message: String::new(), source: errno.into() }
    }

    /// Whether an older way of mounting may work where this one failed.
    fn is_unsupported(&self) -> bool {
        let Self::Kernel { source, .. } = self else { return false };
        let unsupported = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP, Errno::BADF];
        unsupported.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
    }
}

/// What is written on top.
pub(crate) struct Upper {
    pub(crate) fs: OwnedFd,
    pub(crate) work: OwnedFd,
    /// The directory of both, relative to the store's root.
    pub(crate) name: String,
    /// Whether `fsync` in the mount may be ignored: the store makes layers durable as a whole.
    pub(crate) volatile: bool,
}

/// Mounts a tree, detached: the descriptor can be the start of path lookups, and can be moved to
/// a place in any mount namespace. Like `O_PATH` it cannot be read itself: open `.` beneath it.
/// The caller holds the tree for as long as the mount is used. Without
/// `upper` the mount is read-only; an empty tree is then an empty directory. With `upper`, all
/// writes go there; mount an upper directory once at a time.
///
/// # Errors
/// A layer cannot be opened, or the kernel refuses.
pub fn mount_tree(tree: &Tree, upper: Option<&ActiveLayer>) -> Result<OwnedFd, MountError> {
    match (tree.layers().as_slice(), upper) {
        ([], None) => empty_directory(),
        ([only], None) if only.is_plain() => {
            clone_directory(&only.open().map_err(MountError::open)?, true)
        }
        (layers @ [top, ..], None) => overlay(top.store(), layers, None),
        (layers, Some(active)) => {
            let upper = Upper {
                fs: active.open().map_err(MountError::open)?,
                work: active.open_work().map_err(MountError::open)?,
                name: format!("active/{}", active.id()),
                volatile: true,
            };
            overlay(active.store(), layers, Some(&upper))
        }
    }
}

/// An empty read-only directory.
fn empty_directory() -> Result<OwnedFd, MountError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(MountError::kernel("prepare an empty directory"))?;
    let set = |key: &str, value: &str| fsconfig_set_string(context.as_fd(), key, value);
    set("mode", "0755")
        .and_then(|()| set("nr_inodes", "1"))
        .and_then(|()| fsconfig_create(context.as_fd()))
        .map_err(MountError::kernel("make an empty directory"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(MountError::kernel("mount an empty directory"))
}

/// A detached mount of one directory.
pub(crate) fn clone_directory(dir: &OwnedFd, readonly: bool) -> Result<OwnedFd, MountError> {
    let mount = clone_mount(dir)?;
    let mut set = MountAttrFlags::MOUNT_ATTR_NODEV;
    if readonly {
        set |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    set_private(mount.as_fd(), set).map_err(MountError::kernel("restrict a directory's mount"))?;
    Ok(mount)
}

/// Another detached mount of what `mount` shows.
pub(crate) fn clone_mount(mount: &OwnedFd) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, "", flags).map_err(MountError::kernel("mount a directory"))
}

/// Sets attributes of a mount and takes it out of all propagation.
fn set_private(mount: BorrowedFd<'_>, set: MountAttrFlags) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(set.bits()),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is a constant C string, the descriptor is borrowed for the call, and the
    // kernel reads exactly the size given from a structure that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// How layers are named to the kernel, newest way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Descriptors = 0,
    ProcPaths = 1,
    Legacy = 2,
}

const WAYS: [Way; 3] = [Way::Descriptors, Way::ProcPaths, Way::Legacy];

/// The first way that is known to work, as an index of [`WAYS`].
static FIRST_WAY: AtomicU8 = AtomicU8::new(0);

/// Mounts an overlay of `layers`, bottom first.
pub(crate) fn overlay(
    store: &Arc<Store>,
    layers: &[Layer],
    upper: Option<&Upper>,
) -> Result<OwnedFd, MountError> {
    let first = usize::from(FIRST_WAY.load(Ordering::Relaxed));
    let mut refused = None;
    for way in &WAYS[first.min(WAYS.len() - 1)..] {
        match overlay_by(*way, store, layers, upper) {
            Ok(mount) => {
                FIRST_WAY.store(*way as u8, Ordering::Relaxed);
                return Ok(mount);
            }
            // The newest way knows best why it failed.
            Err(error) if error.is_unsupported() => refused = Some(refused.unwrap_or(error)),
            Err(error) => return Err(refused.unwrap_or(error)),
        }
    }
    Err(refused.unwrap_or(MountError::TooManyLayers { count: layers.len() }))
}

/// What an overlay's lower directory is made of.
pub(crate) enum Lower<'a> {
    Layer(&'a Layer),
    /// An overlay of the layers that are too many.
    Mount(OwnedFd),
    /// A directory that stays empty: overlay wants at least two directories.
    Empty,
}

/// Mounts in one given way.
pub(crate) fn overlay_by(
    way: Way,
    store: &Arc<Store>,
    layers: &[Layer],
    upper: Option<&Upper>,
) -> Result<OwnedFd, MountError> {
    let layers = without_repetitions(layers);
    let mut lowers: Vec<Lower<'_>> = Vec::with_capacity(layers.len().min(MAX_LOWER));
    let mut single = layers.as_slice();
    if layers.len() > MAX_LOWER {
        // An overlay may itself be a lower directory, but only once.
        if way != Way::Descriptors || layers.len() > 2 * MAX_LOWER - 1 {
            return Err(MountError::TooManyLayers { count: layers.len() });
        }
        let (bottom, rest) = layers.split_at(layers.len() - (MAX_LOWER - 1));
        let bottom: Vec<Layer> = bottom.iter().map(|layer| (*layer).clone()).collect();
        lowers.push(Lower::Mount(overlay_by(way, store, &bottom, None)?));
        single = rest;
    }
    let needed = if upper.is_some() { 1 } else { 2 };
    if layers.len() < needed {
        lowers.push(Lower::Empty);
    }
    lowers.extend(single.iter().map(|layer| Lower::Layer(layer)));
    if let Some(upper) = upper {
        forget_volatile(upper);
    }
    match way {
        Way::Descriptors | Way::ProcPaths => by_context(way, store, &lowers, upper),
        Way::Legacy => mount_legacy::mount(store, &lowers, upper),
    }
}

/// The layers without those that appear again further up: overlay refuses to take a directory
/// twice, and whatever the lower one says is said again above.
fn without_repetitions(layers: &[Layer]) -> Vec<&Layer> {
    let mut seen = std::collections::HashSet::with_capacity(layers.len());
    let mut kept: Vec<&Layer> =
        layers.iter().rev().filter(|layer| seen.insert(layer.id())).collect();
    kept.reverse();
    kept
}

/// Overlay leaves a mark in the work directory of a volatile mount and refuses to mount it a
/// second time, because after a crash it might be torn. A store never uses active layers of an
/// earlier run, so the mark means nothing here.
fn forget_volatile(upper: &Upper) {
    let work = upper.work.as_fd();
    let _ = unlink(work, "work/incompat/volatile/dirty");
    for directory in ["work/incompat/volatile", "work/incompat"] {
        let _ = rustix::fs::unlinkat(work, directory, rustix::fs::AtFlags::REMOVEDIR);
    }
}

/// Mounts through a file system context, naming directories one by one.
fn by_context(
    way: Way,
    store: &Store,
    lowers: &[Lower<'_>],
    upper: Option<&Upper>,
) -> Result<OwnedFd, MountError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(MountError::kernel("prepare an overlay"))?;
    let fs = context.as_fd();
    let failed = |attempt| {
        move |errno: Errno| MountError::Kernel {
            attempt,
            message: messages(fs),
            source: errno.into(),
        }
    };
    let name = |key: &str, dir: BorrowedFd<'_>| match way {
        Way::Descriptors => fsconfig_set_fd(fs, key, dir),
        _ => fsconfig_set_string(fs, key, format!("/proc/self/fd/{}", dir.as_raw_fd())),
    };
    fsconfig_set_string(fs, "source", "cofferdam")
        .and_then(|()| fsconfig_set_flag(fs, "userxattr"))
        // The kernel's build may default to on, and then one upper directory cannot be mounted
        // again while an ended step's mount is still being torn down.
        .and_then(|()| fsconfig_set_string(fs, "index", "off"))
        .map_err(failed("configure an overlay"))?;
    for lower in lowers.iter().rev() {
        let opened;
        let dir = match lower {
            Lower::Layer(layer) => {
                opened = layer.open().map_err(MountError::open)?;
                opened.as_fd()
            }
            Lower::Mount(mount) => mount.as_fd(),
            Lower::Empty => store.root.empty.as_fd(),
        };
        name("lowerdir+", dir).map_err(failed("add a layer to an overlay"))?;
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    if let Some(upper) = upper {
        name("upperdir", upper.fs.as_fd())
            .and_then(|()| name("workdir", upper.work.as_fd()))
            .map_err(failed("add the upper directory to an overlay"))?;
        if upper.volatile {
            // Linux 5.10; without it steps merely wait for their own syncs.
            let _ = fsconfig_set_flag(fs, "volatile");
        }
    } else {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    // Whoever creates an overlay is whom its layers are opened as.
    let creating = context.try_clone().map_err(MountError::open)?;
    mounter::run(move || fsconfig_create(creating.as_fd()))
        .unwrap_or(Err(Errno::INTR))
        .map_err(failed("create an overlay"))?;
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed("mount an overlay"))
}

/// What the kernel wrote about a failed mount.
fn messages(context: BorrowedFd<'_>) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0_u8; MESSAGE_BYTES];
    while messages.len() < MAX_MESSAGES {
        match rustix::io::read(context, &mut buffer) {
            Ok(count) if count > 0 => {
                messages.push(String::from_utf8_lossy(&buffer[..count]).trim().to_owned());
            }
            _ => break,
        }
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Options, RecordType};

    #[test]
    fn every_way_shows_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        let make = |index: usize| {
            let active = store.new_layer("step", RecordType::Regular).unwrap();
            std::fs::write(active.dir().join(format!("f{index}")), "x").unwrap();
            std::fs::write(active.dir().join("top"), index.to_string()).unwrap();
            active.commit().unwrap()
        };
        let layers: Vec<Layer> = (0..300).map(make).collect();
        for way in WAYS {
            for count in [1, 2, 21, 130, 300] {
                let part = &layers[..count];
                let readonly = overlay_by(way, &store, part, None).unwrap();
                assert_eq!(entries(&readonly), count + 1, "{way:?}");
                let active = store.new_layer("step", RecordType::Regular).unwrap();
                let upper = Upper {
                    fs: active.open().unwrap(),
                    work: active.open_work().unwrap(),
                    name: format!("active/{}", active.id()),
                    volatile: true,
                };
                for _ in 0..2 {
                    let mount = overlay_by(way, &store, part, Some(&upper)).unwrap();
                    let made = rustix::fs::Mode::RWXU;
                    let _ = rustix::fs::mkdirat(&mount, "made", made);
                    assert_eq!(entries(&mount), count + 2, "{way:?}");
                }
                let upper_names = crate::walk::names(upper.fs.as_fd()).unwrap();
                assert_eq!(upper_names, ["made"], "{way:?}");
            }
        }
        assert_eq!(crate::walk::names(store.root.mounts.as_fd()).unwrap().len(), 0);
    }

    fn entries(mount: &OwnedFd) -> usize {
        let dir = crate::root::open_directory(mount.as_fd(), ".").unwrap();
        crate::walk::names(dir.as_fd()).unwrap().len()
    }

    #[test]
    fn too_many_layers_for_one_page_of_options_are_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path(), Options::default()).unwrap();
        crate::state::lock(&store.state).next_id = u64::MAX / 2;
        let make = || store.new_layer("", RecordType::Regular).unwrap().commit().unwrap();
        let layers: Vec<Layer> = std::iter::repeat_with(make).take(400).collect();
        let refused = overlay_by(Way::Legacy, &store, &layers, None);
        assert!(matches!(refused, Err(MountError::TooManyLayers { count: 400 })));
        overlay_by(Way::ProcPaths, &store, &layers, None).unwrap();
    }
}
