//! The root of an enclosure: a read-only tmpfs with what the builder needs of the host, and the store.
//!
//! Made by the process that becomes the enclosure's init. As root of the host that happens before its user namespace exists:
//! every mount is then locked when the namespace is made, and device nodes can be created rather than borrowed.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use super::EnclosureError;
use super::ids::Identity;
use super::plan::{Plan, PlannedBind};
use super::{SCRATCH, STEP_ROOT};
use crate::cgroup::{Delegation, Hierarchy};
use crate::mounts::{
    self, Attributes, MountError, attach, detached_bind, new_filesystem, restrict,
};
use crate::network::GATE_ADDRESS;
use crate::spec::Network;

/// Where the builder finds its store.
pub(super) const STORE: &str = "/store";

/// Where it finds its control groups.
const CGROUPS: &str = "/run/cofferdam/cgroup";

/// What of the host's file tree the builder and the programs it starts (git, ssh) may need.
pub(super) const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
];

/// What of it holds where the network is the host's.
pub(super) fn resolver(network: Network) -> &'static [&'static str] {
    if network == Network::Host { &["/etc/resolv.conf"] } else { &[] }
}

/// Device nodes of the builder: path below `/dev`, major, minor.
const NODES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("net/tun", 10, 200),
];
/// The device of a builder that is a virtual machine.
const KVM: (&str, u32, u32) = ("kvm", 10, 232);

/// Programs look their own user up; nobody else exists here.
const PASSWD: &str = "root:x:0:0:builder:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Sources opened before anything hides them.
struct Sources {
    store: OwnedFd,
    binds: Vec<(PathBuf, Source)>,
    cgroups: Vec<OwnedFd>,
    nodes: Vec<(&'static str, OwnedFd)>,
}

enum Source {
    Mount(OwnedFd),
    Link(PathBuf),
}

/// Builds the root and moves into it. The caller is in a mount namespace of its own. Returns the control groups as seen inside.
pub(super) fn build(plan: &Plan) -> Result<Delegation, EnclosureError> {
    mounts::make_private().map_err(failed("cut off mount events"))?;
    let store_at = open(&plan.store)?;
    let sources = open_sources(plan, &store_at)?;
    let owner = match plan.identity {
        Identity::Block { base } => base,
        Identity::Subordinate { .. } => 0,
    };
    let root = new_filesystem(
        c"tmpfs",
        &[("mode", "755"), ("size", "4m")],
        Attributes { nosuid: true, nodev: true, ..Attributes::NONE },
    )
    .map_err(failed("make a root"))?;
    // The store's own directory is a place that surely exists, and its content is already in hand.
    attach(&root, &store_at).map_err(failed("attach the new root"))?;
    rustix::process::fchdir(&root).map_err(EnclosureError::mechanism("enter the new root"))?;
    // Relative from here on: "." is the new root, and nobody else can see or change it.
    write_tree(plan.network)?;
    mount_devices(plan, &sources.nodes)?;
    put(new_filesystem(c"proc", &[], Attributes::DATA).map_err(failed("mount /proc"))?, "proc")?;
    put_writable("tmp", owner, "1777")?;
    put_writable("run/cofferdam/files", owner, "700")?;
    put(sources.store, "store")?;
    let delegation = mount_cgroups(&plan.delegation, sources.cgroups)?;
    for (target, source) in sources.binds {
        place(&target, source)?;
    }
    restrict(&root, Attributes { readonly: true, nosuid: true, nodev: true, noexec: false }, false)
        .map_err(failed("make the root read-only"))?;
    rustix::process::pivot_root(c".", c".").map_err(EnclosureError::mechanism("change root"))?;
    rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)
        .map_err(EnclosureError::mechanism("detach the host's root"))?;
    rustix::process::chdir(c"/").map_err(EnclosureError::mechanism("enter the new root"))?;
    Ok(delegation)
}

fn open_sources(plan: &Plan, store_at: &OwnedFd) -> Result<Sources, EnclosureError> {
    let store = detached_bind(store_at, false).map_err(failed("bind the store"))?;
    // Not noexec: steps run programs from layers, which single layers are bound from directly.
    restrict(&store, Attributes { nosuid: true, nodev: true, ..Attributes::NONE }, false)
        .map_err(failed("bind the store"))?;
    let mut binds = Vec::new();
    for bind in &plan.binds {
        if let Some(source) = open_bind(bind)? {
            binds.push((bind.target.clone(), source));
        }
    }
    let clone = |hierarchy: &Hierarchy| {
        detached_bind(open(&hierarchy.path)?, false).map_err(failed("bind a control group"))
    };
    let cgroups = plan.delegation.hierarchies.iter().map(clone).collect::<Result<_, _>>()?;
    let nodes = match plan.identity {
        Identity::Block { .. } => Vec::new(),
        Identity::Subordinate { .. } => borrow_nodes(plan)?,
    };
    Ok(Sources { store, binds, cgroups, nodes })
}

fn open_bind(bind: &PlannedBind) -> Result<Option<Source>, EnclosureError> {
    if bind.optional
        && let Ok(target) = fs::read_link(&bind.source)
        && bind.source.parent() == Some(Path::new("/"))
    {
        // /bin and its like are links into /usr on most systems; as a link it serves both.
        return Ok(Some(Source::Link(target)));
    }
    let source = match open(&bind.source) {
        Err(EnclosureError::Mechanism { source: Errno::NOENT, .. }) if bind.optional => {
            return Ok(None);
        }
        other => other?,
    };
    let mount = detached_bind(source, true).map_err(failed("bind a directory of the host"))?;
    let attributes =
        Attributes { readonly: bind.readonly, nosuid: true, nodev: true, noexec: false };
    restrict(&mount, attributes, true).map_err(failed("bind a directory of the host"))?;
    Ok(Some(Source::Mount(mount)))
}

fn write_tree(network: Network) -> Result<(), EnclosureError> {
    let tree = || -> std::io::Result<()> {
        for dir in ["proc", "dev", "sys", "tmp", "store", "etc", "run/cofferdam/files"] {
            fs::create_dir_all(dir)?;
        }
        for dir in [STEP_ROOT, SCRATCH, CGROUPS] {
            fs::create_dir_all(dir.trim_start_matches('/'))?;
        }
        fs::write("etc/passwd", PASSWD)?;
        fs::write("etc/group", GROUP)?;
        if network == Network::Gate {
            fs::write("etc/resolv.conf", format!("nameserver {GATE_ADDRESS}\n"))?;
        }
        symlink("run", "var")
    };
    tree().map_err(|error| io_failed("fill the new root", &error))
}

fn mount_devices(plan: &Plan, borrowed: &[(&str, OwnedFd)]) -> Result<(), EnclosureError> {
    let own = matches!(plan.identity, Identity::Block { .. });
    let attributes = Attributes { nosuid: true, noexec: true, nodev: !own, readonly: false };
    let dev = new_filesystem(c"tmpfs", &[("mode", "755"), ("size", "64k")], attributes)
        .map_err(failed("mount /dev"))?;
    put(&dev, "dev")?;
    let make = || -> std::io::Result<()> {
        fs::create_dir("dev/net")?;
        fs::create_dir("dev/shm")?;
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            symlink(target, Path::new("dev").join(name))?;
        }
        if own {
            for (name, major, minor) in nodes_of(plan) {
                let path = Path::new("dev").join(name);
                let mode = Mode::from_raw_mode(0o666);
                rustix::fs::mknodat(
                    CWD,
                    &path,
                    FileType::CharacterDevice,
                    mode,
                    makedev(*major, *minor),
                )?;
                rustix::fs::chmod(&path, mode)?;
            }
        } else {
            for (name, _) in borrowed {
                fs::write(Path::new("dev").join(name), "")?;
            }
        }
        Ok(())
    };
    make().map_err(|error| io_failed("make device nodes", &error))?;
    for (name, node) in borrowed {
        put(node, format!("dev/{name}"))?;
    }
    restrict(&dev, Attributes { readonly: true, ..attributes }, false).map_err(failed("mount /dev"))
}

/// The nodes of this enclosure.
fn nodes_of(plan: &Plan) -> impl Iterator<Item = &'static (&'static str, u32, u32)> {
    NODES.iter().chain(plan.kvm.then_some(&KVM))
}

/// The host's nodes, checked to be what their names say. A tun device the user cannot open is left out.
fn borrow_nodes(plan: &Plan) -> Result<Vec<(&'static str, OwnedFd)>, EnclosureError> {
    let mut nodes = Vec::new();
    for (name, major, minor) in nodes_of(plan) {
        let path = Path::new("/dev").join(name);
        let node = match open(&path) {
            Err(_) if *name == "net/tun" => continue,
            other => other?,
        };
        let stat =
            rustix::fs::fstat(&node).map_err(EnclosureError::mechanism("examine a device node"))?;
        if stat.st_rdev != makedev(*major, *minor) {
            return Err(EnclosureError::mechanism(format!("use {}", path.display()))(Errno::NODEV));
        }
        nodes.push((*name, detached_bind(node, false).map_err(failed("bind a device node"))?));
    }
    Ok(nodes)
}

fn mount_cgroups(
    delegation: &Delegation,
    mounts: Vec<OwnedFd>,
) -> Result<Delegation, EnclosureError> {
    let mut inside = Delegation::default();
    for (number, (hierarchy, mount)) in delegation.hierarchies.iter().zip(mounts).enumerate() {
        let path = format!("{CGROUPS}/{number}");
        let relative = path.trim_start_matches('/');
        fs::create_dir(relative).map_err(|error| io_failed("bind a control group", &error))?;
        restrict(&mount, Attributes::DATA, false).map_err(failed("bind a control group"))?;
        put(mount, relative)?;
        inside.hierarchies.push(Hierarchy { path: path.into(), ..hierarchy.clone() });
    }
    Ok(inside)
}

fn place(target: &Path, source: Source) -> Result<(), EnclosureError> {
    // Only plain names: "." is the new root and must be all that can be meant.
    let relative: PathBuf =
        target.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let make = |directory: bool| -> std::io::Result<()> {
        if let Some(parent) = relative.parent() {
            fs::create_dir_all(Path::new(".").join(parent))?;
        }
        match (directory, relative.exists()) {
            (_, true) => Ok(()),
            (true, false) => fs::create_dir(&relative),
            (false, false) => fs::File::create(&relative)?.write_all(b""),
        }
    };
    match source {
        Source::Link(link) => {
            symlink(link, &relative).map_err(|error| io_failed("fill the new root", &error))
        }
        Source::Mount(mount) => {
            let stat =
                rustix::fs::fstat(&mount).map_err(EnclosureError::mechanism("examine a bind"))?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            make(directory)
                .map_err(|error| io_failed(&format!("make {}", target.display()), &error))?;
            put(mount, &relative)
        }
    }
}

/// A tmpfs the builder may write to.
fn put_writable(at: &str, owner: u32, mode: &str) -> Result<(), EnclosureError> {
    let owner = owner.to_string();
    let options = [("uid", owner.as_str()), ("gid", owner.as_str()), ("mode", mode)];
    let mount = new_filesystem(
        c"tmpfs",
        &options,
        Attributes { nosuid: true, nodev: true, ..Attributes::NONE },
    )
    .map_err(failed("make a place for temporary files"))?;
    put(mount, at)
}

fn put(mount: impl AsFd, at: impl AsRef<Path>) -> Result<(), EnclosureError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(CWD, at.as_ref(), flags, Mode::empty()).map_err(
        EnclosureError::mechanism(format!("open /{} in the new root", at.as_ref().display())),
    )?;
    attach(mount, target).map_err(failed("fill the new root"))
}

fn open(path: &Path) -> Result<OwnedFd, EnclosureError> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(EnclosureError::mechanism(format!("open {}", path.display())))
}

fn failed(action: &'static str) -> impl Fn(MountError) -> EnclosureError {
    move |error| {
        let source = match &error {
            MountError::New { source, .. }
            | MountError::Clone(source)
            | MountError::Attributes(source)
            | MountError::Attach(source) => *source,
            MountError::File(source) => Errno::from_io_error(source).unwrap_or(Errno::IO),
        };
        EnclosureError::mechanism(format!("{action}: {error}"))(source)
    }
}

fn io_failed(action: &str, error: &std::io::Error) -> EnclosureError {
    EnclosureError::mechanism(action.to_owned())(Errno::from_io_error(error).unwrap_or(Errno::IO))
}
