//! The supervisor's side: making a control group for one builder and handing it over.
//!
//! In hierarchies of version 1 the group is made below the supervisor's own, so that limits on the supervisor hold. In the
//! unified hierarchy a group with processes cannot have children with controllers, so root makes it below the top and an
//! ordinary user below the nearest group above its own that is its own too and free of processes.
//!
//! ```text
//! cofferdam/            shared by all builders of the machine
//!   <id>/               owned by the builder's root; limits of the whole builder
//!     builder/          the builder itself
//!     <step>/           one leaf per step, made by the builder
//! ```
//!
//! In the unified hierarchy the builder's namespace of groups begins at `<id>` and its processes are in `builder`. With the mount
//! option `nsdelegate`, which systemd always sets, no process can be moved across the border of a namespace: one that began at
//! `builder` could never start a step beside it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, CWD, Mode};
use rustix::io::Errno;

use super::orphans::{Supervisors, named, orphans};
use super::removal::{remove_all, remove_tree, sweep};
use super::{
    CgroupError, Delegation, HOME, Hierarchy, HierarchyKind, STEP_CONTROLLERS, enable, limits,
    open_directory, read_control, retry, step_controllers, write_control,
};
use crate::spec::Limits;

/// Name of the directory above all builders.
const FAMILY: &str = "cofferdam";

/// Devices a builder may open, in a version 1 hierarchy: null, zero, full, random, urandom, tty, ptmx, pseudo terminals and tun.
/// Only root of the host can set this; on the unified hierarchy the mounts' `nodev` does the work alone.
const DEVICES: &[&str] = &[
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
    "c 10:200 rwm",
];

/// What a virtual machine needs besides.
const KVM: &str = "c 10:232 rwm";

/// Longest description of mounts or groups that is read; machines with thousands of mounts stay below.
const MAX_DESCRIPTION: u64 = 16 << 20;

/// What one builder was given.
#[derive(Debug, Default)]
pub(crate) struct Grant {
    /// The groups to create leaves in, by their paths on the host.
    pub(crate) delegation: Delegation,
    /// Groups of version 1 the builder has to join. In the unified hierarchy it is made in the delegated group.
    pub(crate) join: Vec<PathBuf>,
    created: Vec<PathBuf>,
}

impl Grant {
    /// Ends every process that is left in the groups and removes them, within a bounded time.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        let mut failed = Ok(());
        for path in self.created.iter().rev() {
            if let Ok(dir) = open_directory(CWD, path) {
                write_control(&dir, "cgroup.kill", "1").ok();
            }
            if let Err(source) = retry(|| remove_tree(path)) {
                failed = Err(CgroupError::Remove { path: path.clone(), source });
            }
        }
        failed
    }
}

/// Who gets a control group, and under which name.
#[derive(Debug)]
pub(crate) struct Delegator<'a> {
    /// Name below [`FAMILY`]; ends in `-<pid of the supervisor>`, to which the supervisor's start is added so that leftovers of
    /// dead supervisors can be told.
    pub(crate) name: &'a str,
    /// Owner of the group on the host, when the caller may give it away.
    pub(crate) owner: Option<u32>,
    /// Limits of the builder as a whole.
    pub(crate) limits: &'a Limits,
    /// Whether it may open `/dev/kvm`.
    pub(crate) kvm: bool,
}

impl Delegator<'_> {
    /// Makes the groups. A hierarchy that cannot be used is left out, unless a limit needs it.
    pub(crate) fn create(&self) -> Result<Grant, CgroupError> {
        let mut grant = Grant::default();
        let result = self.fill(&mut grant);
        if result.is_err() {
            grant.remove().ok();
        }
        result.map(|()| grant)
    }

    fn fill(&self, grant: &mut Grant) -> Result<(), CgroupError> {
        let mut used: Vec<String> = Vec::new();
        let mut known = Supervisors::default();
        let name = named(self.name);
        for place in places()? {
            // One hierarchy can be mounted in many places, such as the roots of other systems.
            if used.contains(&place.device) {
                continue;
            }
            match self.make(&place, &name, &mut known, grant) {
                Ok(()) => used.push(place.device),
                // An ordinary user may not create groups in most hierarchies, and some are mounted read-only.
                Err(CgroupError::Create {
                    path,
                    source: source @ (Errno::ACCESS | Errno::PERM | Errno::ROFS),
                }) => {
                    tracing::debug!(path = %path.display(), %source, "cgroup hierarchy is not ours to use");
                }
                Err(error) => return Err(error),
            }
        }
        for (limit, controller) in limits::required(self.limits) {
            if !grant.delegation.hierarchies.iter().any(|hierarchy| hierarchy.has(controller)) {
                return Err(CgroupError::Unavailable { limit, controller });
            }
        }
        Ok(())
    }

    fn make(
        &self,
        place: &Place,
        name: &str,
        known: &mut Supervisors,
        grant: &mut Grant,
    ) -> Result<(), CgroupError> {
        let family = place.base(self.owner.is_some()).join(FAMILY);
        let created = make_directory(&family)?;
        if created {
            initialise(place, &family);
        }
        sweep(&family, known);
        let own = family.join(name);
        make_directory(&own)?;
        grant.created.push(own.clone());
        let dir = open(&own)?;
        let controllers = place.controllers(&dir, &family);
        if place.kind == HierarchyKind::V2 && !is_domain(&dir) {
            tracing::debug!(path = %own.display(), "no process can be put into this cgroup");
            return Ok(());
        }
        let hierarchy = Hierarchy { kind: place.kind, controllers, path: own.clone() };
        limits::write(&dir, &own, &hierarchy, self.limits)?;
        // One step that takes too much shall end, not the builder with all others: groups of steps end as a whole, this one not.
        write_control(&dir, "memory.oom.group", "0").ok();
        if place.has("devices") && self.owner.is_some() {
            restrict_devices(&dir, &own, self.kvm)?;
        }
        // An ordinary user's builder makes its own in the unified hierarchy.
        if place.kind == HierarchyKind::V1 || self.owner.is_some() {
            let home = own.join(HOME);
            make_directory(&home)?;
            if place.kind == HierarchyKind::V1 {
                grant.join.push(home);
            }
        }
        if let Some(owner) = self.owner {
            give(&own, owner)?;
        }
        if place.kind == HierarchyKind::V2 || !hierarchy.controllers.is_empty() {
            grant.delegation.hierarchies.push(hierarchy);
        }
        Ok(())
    }
}

/// A mounted hierarchy and the caller's group in it.
#[derive(Debug)]
struct Place {
    kind: HierarchyKind,
    /// Tells hierarchies apart, as mountinfo does.
    device: String,
    controllers: Vec<String>,
    mount: PathBuf,
    own: PathBuf,
}

impl Place {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// The group above all builders'.
    fn base(&self, root: bool) -> &Path {
        match self.kind {
            HierarchyKind::V1 => &self.own,
            HierarchyKind::V2 if root => &self.mount,
            HierarchyKind::V2 => {
                let mut above =
                    self.own.ancestors().take_while(|path| path.starts_with(&self.mount));
                above.find(|path| has_room(path)).unwrap_or(&self.own)
            }
        }
    }

    /// The controllers that can be used in `own`. In the unified hierarchy they are first made usable there; for the groups below,
    /// the builder does that.
    fn controllers(&self, own: &OwnedFd, family: &Path) -> Vec<String> {
        match self.kind {
            HierarchyKind::V1 => {
                let used = STEP_CONTROLLERS.iter().filter(|name| self.has(name));
                used.map(|&name| name.to_owned()).collect()
            }
            HierarchyKind::V2 => {
                let above = family.parent().unwrap_or(family);
                for dir in [above, family].into_iter().flat_map(open) {
                    if may_branch(&dir) {
                        enable(&dir).ok();
                    }
                }
                step_controllers(own, "cgroup.controllers")
            }
        }
    }
}

/// Whether the caller may put groups with controllers into this one of the unified hierarchy, and move processes there.
fn has_room(group: &Path) -> bool {
    let may = |path: &Path| rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_ok();
    may(group) && may(&group.join("cgroup.procs")) && open(group).is_ok_and(|dir| is_free(&dir))
}

/// Whether controllers can be made usable for children of a group of the unified hierarchy. In one with processes the kernel
/// refuses some and takes others, after which no process can be put into the children any more. The top alone has no type and no
/// such rule.
fn may_branch(dir: &OwnedFd) -> bool {
    is_free(dir) || read_control(dir, "cgroup.type") == Err(Errno::NOENT)
}

/// Whether processes can be put into a group of the unified hierarchy: somebody may have done to its parent what [`may_branch`]
/// avoids.
fn is_domain(dir: &OwnedFd) -> bool {
    read_control(dir, "cgroup.type").is_ok_and(|kind| kind.trim() == "domain")
}

fn is_free(dir: &OwnedFd) -> bool {
    read_control(dir, "cgroup.procs").is_ok_and(|processes| processes.is_empty())
}

/// A cpuset of version 1 starts empty and cannot hold a process until it has been given something.
fn initialise(place: &Place, family: &Path) {
    if place.kind == HierarchyKind::V2 || !place.has("cpuset") {
        return;
    }
    let (Some(Ok(above)), Ok(dir)) = (family.parent().map(open), open(family)) else { return };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = read_control(&above, file) {
            write_control(&dir, file, value.trim()).ok();
        }
    }
    // Groups made below start with what this one has.
    write_control(&dir, "cgroup.clone_children", "1").ok();
}

fn restrict_devices(dir: &OwnedFd, path: &Path, kvm: bool) -> Result<(), CgroupError> {
    let set = |file: &str, value: &str| {
        write_control(dir, file, value).map_err(|source| CgroupError::Write {
            path: path.to_owned(),
            file: file.to_owned(),
            value: value.to_owned(),
            source,
        })
    };
    set("devices.deny", "a")?;
    let kvm = kvm.then_some(&KVM);
    DEVICES.iter().chain(kvm).try_for_each(|device| set("devices.allow", device))
}

/// Hands a group to the builder: it may create groups below and move its own processes among them.
fn give(path: &Path, owner: u32) -> Result<(), CgroupError> {
    let chown = |path: &Path| {
        std::os::unix::fs::lchown(path, Some(owner), Some(owner))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    chown(path).map_err(|source| CgroupError::Create { path: path.to_owned(), source })?;
    for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "tasks"] {
        match chown(&path.join(file)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(source) => return Err(CgroupError::Create { path: path.join(file), source }),
        }
    }
    Ok(())
}

/// Removes groups of supervisors that are gone, in every hierarchy. Their last processes are waited for, up to a second for all
/// of them together.
///
/// Nothing is killed here: a number that is no process's may be one in another pid namespace.
///
/// # Errors
///
/// When the mounted hierarchies cannot be listed, or a group of `ended` stays busy.
pub fn sweep_groups(ended: &[u32]) -> Result<(), CgroupError> {
    let root = rustix::process::geteuid().is_root();
    let places = places()?;
    let families = places.iter().map(|place| place.base(root).join(FAMILY));
    let mut known = Supervisors::default();
    remove_all(families.flat_map(|family| orphans(&family, &mut known)).collect(), ended)
}

fn make_directory(path: &Path) -> Result<bool, CgroupError> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(source) => Err(CgroupError::Create { path: path.to_owned(), source }),
    }
}

fn open(path: &Path) -> Result<OwnedFd, CgroupError> {
    open_directory(CWD, path).map_err(|source| CgroupError::Open { path: path.to_owned(), source })
}

/// The hierarchies mounted here that are of use, and the caller's place in each.
fn places() -> Result<Vec<Place>, CgroupError> {
    let mounts = read_description("/proc/self/mountinfo")?;
    let groups = read_description("/proc/self/cgroup")?;
    Ok(mounts.lines().filter_map(|line| place(line, &groups)).collect())
}

fn read_description(path: &'static str) -> Result<String, CgroupError> {
    use std::io::Read;
    let describe = |source| CgroupError::Describe { path, source };
    let mut text = String::new();
    fs::File::open(path)
        .map_err(describe)?
        .take(MAX_DESCRIPTION)
        .read_to_string(&mut text)
        .map_err(describe)?;
    Ok(text)
}

/// One line of mountinfo, see proc_pid_mountinfo(5), when it is a hierarchy we use.
fn place(line: &str, groups: &str) -> Option<Place> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = match after.next()? {
        "cgroup" => HierarchyKind::V1,
        "cgroup2" => HierarchyKind::V2,
        _ => return None,
    };
    let options = after.nth(1)?;
    let mut before = before.split(' ').skip(2);
    let device = before.next()?.to_owned();
    let (root, mount) = (before.next()?, PathBuf::from(before.next()?));
    let controllers: Vec<String> = match kind {
        HierarchyKind::V1 => options.split(',').map(str::to_owned).collect(),
        HierarchyKind::V2 => open(&mount)
            .and_then(|dir| {
                read_control(&dir, "cgroup.controllers")
                    .map_err(|source| CgroupError::Open { path: mount.clone(), source })
            })
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
    };
    let used = |name: &String| name == "devices" || STEP_CONTROLLERS.contains(&name.as_str());
    if kind == HierarchyKind::V1 && !controllers.iter().any(used) {
        return None;
    }
    let own = own_group(&mount, root, kind, &controllers, groups);
    Some(Place { kind, device, controllers, mount, own })
}

/// The caller's group as a path below `mount`; the mount itself when the group is not visible there.
fn own_group(
    mount: &Path,
    root: &str,
    kind: HierarchyKind,
    controllers: &[String],
    groups: &str,
) -> PathBuf {
    let inside = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let ours = match kind {
            HierarchyKind::V2 => names.is_empty(),
            HierarchyKind::V1 => {
                names.split(',').any(|name| controllers.iter().any(|own| own == name))
            }
        };
        ours.then(|| path.strip_prefix(root).unwrap_or(path).trim_start_matches('/').to_owned())
    });
    let own = mount.join(inside.unwrap_or_default());
    if own.is_dir() { own } else { mount.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GROUPS: &str = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/user.slice\n";

    #[test]
    fn reads_a_version_1_line() {
        let line =
            "40 35 0:33 / /nonexistent/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let place = place(line, GROUPS).unwrap();
        assert_eq!((place.kind, place.device.as_str()), (HierarchyKind::V1, "0:33"));
        assert!(place.has("cpu") && place.has("cpuacct"));
        assert_eq!(place.own, Path::new("/nonexistent/cpu"));
    }

    #[test]
    fn groups_that_are_busy_for_a_moment_are_removed_all() {
        // Directories behave as groups do, but for the reason that a full one is kept for.
        let family = tempfile::tempdir().unwrap();
        let group = |name: &str, busy: bool| {
            let path = family.path().join(name);
            fs::create_dir_all(path.join("step")).unwrap();
            if busy {
                fs::write(path.join("step/process"), "").unwrap();
            }
            path
        };
        let (first, second) = (group("first", true), group("second", true));
        let (empty, other) = (group("empty", false), group("other", true));
        let groups = vec![
            (1, first.clone()),
            (2, second.clone()),
            (3, empty.clone()),
            (4, other.clone()),
            (5, family.path().join("gone")),
        ];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // When this one is away, the others have been tried once.
                while empty.exists() {
                    std::thread::yield_now();
                }
                for path in [&first, &second] {
                    fs::remove_file(path.join("step/process")).unwrap();
                }
            });
            remove_all(groups, &[1, 2]).unwrap();
        });
        assert!(!first.exists() && !second.exists() && other.exists());
        let stays = remove_all(vec![(4, other.clone())], &[4]).unwrap_err();
        assert!(matches!(stays, CgroupError::Remove { path, .. } if path == other));
    }

    #[test]
    fn leaves_out_what_is_of_no_use() {
        assert!(place("40 35 0:33 / /x rw - cgroup cgroup rw,blkio", GROUPS).is_none());
        assert!(place("40 35 0:33 / /x rw - tmpfs tmpfs rw", GROUPS).is_none());
        assert!(place("nonsense", GROUPS).is_none());
        assert!(place("40 - cgroup", GROUPS).is_none());
    }
}
