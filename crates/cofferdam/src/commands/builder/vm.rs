//! Level `vm`: where the enclosed builder would be, there is the machine's process, and the builder is in its guest.
//!
//! The supervisor chooses kernel and monitor and makes the guest's first file tree; all of that is the host's own. The
//! machine's process is in the enclosure of the project, without network; listeners and gate are handed to it as they would be to
//! a builder.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, anyhow, ensure};
use cofferdam_builder::{Landlock, Listener as BuilderListener};
use cofferdam_microvm::host::{self, Listener, Parts, Plan};
use cofferdam_microvm::{
    Accelerator, DEFAULT_DISK, Kernel, LEAST_DISK, Machine, OVERHEAD, Order, prepare_initramfs,
};
use cofferdam_sandbox::{
    Bind, Enclosure, EnclosureOptions, Entered, Limits, Network, Spare, Supervised, can_limit,
};
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::vm_hypervisor::Chosen;
use super::{enclosed, gate, listen};

/// First argument of the machine's process.
pub(super) const MODE: &str = "__machine";

/// Below the root directory: what the guest is booted from.
const BOOT: &str = "vm";
/// Where the machine's process finds it.
const KERNEL: &str = "/machine/kernel";
const INITRAMFS: &str = "/machine/initramfs";

/// Memory of a guest when nothing is said, and at least.
const MEMORY: u64 = 4 << 30;
const LEAST_MEMORY: u64 = 512 << 20;
/// Processors of a guest at most; Firecracker gives no more than 32.
const MOST_CPUS: u32 = 64;
/// Bytes of randomness for a guest.
const SEED: usize = 64;
/// Longest plan that is read.
const MAX_PLAN: u64 = 64 << 20;
/// Longest `/etc/hosts` that a guest is given.
const MAX_HOSTS: u64 = 1 << 20;

/// What the machine's process reads.
#[derive(Serialize, Deserialize)]
struct Description {
    level: String,
    format: String,
    plan: Plan,
}

/// Starts the machine's process in its enclosure.
pub(super) fn enclose(
    settings: &Settings,
    mut descriptors: Vec<(String, OwnedFd)>,
    config: Vec<u8>,
    env: &[(OsString, OsString)],
    spare: Spare,
) -> anyhow::Result<Supervised> {
    ensure!(cfg!(target_arch = "x86_64"), "level vm needs an x86-64 machine");
    let vm = &settings.config.isolation.vm;
    let kernel = Kernel::find(vm.kernel.as_deref(), vm.modules.as_deref())?;
    let chosen = Chosen::new(vm, &kernel)?;
    let boot = settings.root.join(BOOT);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&boot)
        .with_context(|| format!("create {}", boot.display()))?;
    // By this name it is still found when a newer version has taken its place.
    let initramfs =
        prepare_initramfs(&boot, Path::new("/proc/self/exe"), &kernel, &chosen.hypervisor)?;
    let image = readable(&chosen.kernel(&kernel, &boot)?, &boot)?;
    let memory = memory(settings, &initramfs)?;
    let machine = Machine {
        kernel: KERNEL.into(),
        initramfs: INITRAMFS.into(),
        hypervisor: chosen.hypervisor,
        accelerator: chosen.accelerator,
        memory,
        cpus: cpus(settings),
    };
    let listeners = descriptors.iter().map(|(name, _)| name.clone());
    let order = order(settings, config, env, listeners.filter(|name| name != enclosed::GATE))?;
    let description = Description {
        level: settings.level.name().to_owned(),
        format: settings.format.name().to_owned(),
        plan: Plan {
            machine,
            disk: disk_size(settings)?,
            landlock: settings.config.isolation.landlock == Landlock::Required,
            order,
        },
    };
    let description = gate::in_memory(c"machine", &serde_json::to_vec(&description)?)?;
    descriptors.push((enclosed::CONFIG.to_owned(), description));
    let mut binds = vec![read_only(&image, KERNEL), read_only(&initramfs, INITRAMFS)];
    binds.extend(chosen.bind);
    Enclosure::spawn(EnclosureOptions {
        store: settings.root.join(super::supervise::STORE),
        ids_base: settings.config.isolation.ids_base,
        binds,
        args: vec![MODE.into()],
        env: env.to_vec(),
        descriptors,
        limits: limits(settings, memory),
        network: Network::None,
        kvm: chosen.accelerator == Accelerator::Kvm,
        spare: Some(spare),
    })
    .context("start the virtual machine")
}

/// Limits of the machine's process. What was asked for is the guest's, and holds by what it is given; the monitor comes on top. Its
/// threads are not the guest's processes.
fn limits(settings: &Settings, memory: u64) -> Limits {
    let mut limits = settings.limits.clone();
    limits.memory = limits.memory.map(|_| memory + memory / 4 + OVERHEAD);
    limits.pids = None;
    if rustix::process::geteuid().is_root() || can_limit(&limits) {
        return limits;
    }
    tracing::warn!(
        "this user has no control groups: the guest is limited, and the program that runs it is not"
    );
    Limits::default()
}

/// A file of the host, as the machine's process sees it.
pub(super) fn read_only(source: &Path, target: &str) -> Bind {
    Bind { source: source.to_owned(), target: target.into(), readonly: true }
}

/// The kernel's image, or a copy of it where only root may read it: the machine's process is not root.
fn readable(image: &Path, boot: &Path) -> anyhow::Result<PathBuf> {
    let failed = || format!("read the kernel {}", image.display());
    let mode = std::fs::metadata(image).with_context(failed)?.permissions().mode();
    if mode & 0o004 != 0 {
        return image.canonicalize().with_context(failed);
    }
    let (copy, part) = (boot.join("kernel"), boot.join("kernel.part"));
    std::fs::copy(image, &part).with_context(failed)?;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&part, &copy)?;
    Ok(copy)
}

fn memory(settings: &Settings, initramfs: &Path) -> anyhow::Result<u64> {
    let machine = rustix::system::sysinfo();
    let total = machine.totalram.saturating_mul(machine.mem_unit.into());
    let memory = settings.limits.memory.unwrap_or(MEMORY.min(total / 2));
    // The tree is in memory twice while the kernel unpacks it.
    let tree = std::fs::metadata(initramfs)?.len();
    let least = LEAST_MEMORY.max(2 * tree + LEAST_MEMORY / 2) >> 20;
    ensure!(
        memory >> 20 >= least,
        "[isolation] memory: a builder in a virtual machine needs {least} MiB"
    );
    Ok(memory)
}

fn cpus(settings: &Settings) -> u32 {
    let machine = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let machine = u32::try_from(machine).unwrap_or(MOST_CPUS);
    // Checked to be positive and of a sensible size when the configuration was read.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let asked = settings.config.isolation.cpus.map(|cpus| cpus.ceil() as u32);
    asked.unwrap_or(machine).clamp(1, machine.min(MOST_CPUS))
}

fn disk_size(settings: &Settings) -> anyhow::Result<u64> {
    let found =
        rustix::fs::statvfs(&settings.root).context("look at the disk of the root directory")?;
    let total = found.f_blocks.saturating_mul(found.f_frsize);
    let size = settings.config.isolation.vm.disk.map_or(DEFAULT_DISK, |disk| disk.bytes(total));
    ensure!(size >= LEAST_DISK, "[isolation.vm] disk: a store needs {LEAST_DISK} bytes");
    // Whole megabytes, so that no block size leaves a rest.
    Ok(size >> 20 << 20)
}

fn order(
    settings: &Settings,
    config: Vec<u8>,
    env: &[(OsString, OsString)],
    listeners: impl Iterator<Item = String>,
) -> anyhow::Result<Order> {
    let text = |value: &OsString| value.to_string_lossy().into_owned();
    let mut seed = vec![0; SEED];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .context("make randomness for the virtual machine")?;
    let mut hosts = String::new();
    if let Ok(file) = File::open("/etc/hosts") {
        file.take(MAX_HOSTS).read_to_string(&mut hosts).ok();
    }
    Ok(Order {
        config: String::from_utf8(config).context("write the configuration")?,
        env: env.iter().map(|(name, value)| (text(name), text(value))).collect(),
        hosts,
        listeners: listeners.collect(),
        pids: settings.limits.pids,
        time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        seed,
    })
}

/// The life of the machine's process.
pub(super) fn run(entered: Entered) -> anyhow::Result<ExitCode> {
    let Entered { store, mut descriptors, .. } = entered;
    let description = descriptors
        .remove(enclosed::CONFIG)
        .ok_or_else(|| anyhow!("the supervisor left no description of the machine"))?;
    let mut bytes = Vec::new();
    File::from(description).take(MAX_PLAN).read_to_end(&mut bytes)?;
    let description: Description =
        serde_json::from_slice(&bytes).context("read the description of the machine")?;
    crate::logging::start(description.level.parse()?, description.format.parse()?);
    let gate = descriptors.remove(enclosed::GATE);
    let plan = description.plan;
    let mut listeners = Vec::new();
    for name in &plan.order.listeners {
        let fd =
            descriptors.remove(name).ok_or_else(|| anyhow!("the listener {name} is missing"))?;
        let inherited = listen::inherited([(name.clone(), fd)].into());
        for listener in inherited {
            listeners.push(match listener {
                BuilderListener::Unix(socket)
                | BuilderListener::Server(socket)
                | BuilderListener::DebugUnix(socket) => Listener::Unix(socket),
                BuilderListener::Tcp(socket) | BuilderListener::DebugTcp(socket) => {
                    Listener::Tcp(socket)
                }
            });
        }
    }
    let code = host::run(Parts { store, plan, listeners, gate })?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
