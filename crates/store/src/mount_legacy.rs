//! Overlay mounts on kernels before 6.5, by `mount(2)` and relative paths.
//!
//! All options of such a mount share one page of text, so layers are named relative to the
//! directory of layers, from a thread with a working directory of its own. The mount appears at
//! a private place for the moment it takes to copy it into a detached one.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags, open_tree};
use rustix::thread::UnshareFlags;

use crate::ids::name_of;
use crate::mount::{Lower, MountError, Upper};
use crate::mounter;
use crate::root::Root;
use crate::store::Store;

/// The kernel copies one page of options, with a final zero.
const MAX_OPTIONS: usize = 4095;

static COUNTER: AtomicU64 = AtomicU64::new(0);

pub(crate) fn mount(
    store: &Arc<Store>,
    lowers: &[Lower<'_>],
    upper: Option<&Upper>,
) -> Result<OwnedFd, MountError> {
    let too_many = || MountError::TooManyLayers { count: lowers.len() };
    let names: Option<Vec<String>> = lowers
        .iter()
        .rev()
        .map(|lower| match lower {
            Lower::Layer(layer) => Some(name_of(layer.id().get())),
            Lower::Empty => Some("../empty".to_owned()),
            Lower::Mount(_) => None,
        })
        .collect();
    let mut options =
        format!("userxattr,index=off,lowerdir={}", names.ok_or_else(too_many)?.join(":"));
    let mut flags = MountFlags::NODEV;
    match upper {
        Some(upper) => {
            let name = &upper.name;
            options.push_str(&format!(",upperdir=../{name}/fs,workdir=../{name}/work"));
            if upper.volatile {
                options.push_str(",volatile");
            }
        }
        None => flags |= MountFlags::RDONLY,
    }
    if options.len() > MAX_OPTIONS {
        return Err(too_many());
    }
    let options = CString::new(options).map_err(|_| too_many())?;
    let root = store.root.clone();
    // A thread may only have a working directory of its own if nothing else runs in it.
    let result = mounter::run_on_a_thread(move || mount_and_detach(&root, &options, flags));
    result.unwrap_or(Err(Errno::INTR)).map_err(MountError::kernel("mount an overlay"))
}

fn mount_and_detach(root: &Root, options: &CString, flags: MountFlags) -> Result<OwnedFd, Errno> {
    // SAFETY: unsharing the working directory changes no descriptor and no memory mapping; the
    // thread was made for this call and ends after it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::process::fchdir(&root.layers)?;
    let name = name_of(COUNTER.fetch_add(1, Ordering::Relaxed));
    rustix::fs::mkdirat(root.mounts.as_fd(), &name, Mode::RWXU)?;
    let target = format!("../mounts/{name}");
    let mounted =
        rustix::mount::mount("cofferdam", &target, "overlay", flags, Some(options.as_c_str()));
    let detached = mounted.and_then(|()| {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let detached = open_tree(CWD, &target, clone);
        rustix::mount::unmount(&target, UnmountFlags::DETACH)?;
        detached
    });
    let _ = rustix::fs::unlinkat(root.mounts.as_fd(), &name, AtFlags::REMOVEDIR);
    detached
}
