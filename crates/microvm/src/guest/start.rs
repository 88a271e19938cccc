//! From the kernel's hand-over to a system that a builder can live in: mounts, modules, loopback and disk.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::mount::{
    MountFlags, UnmountFlags, mount, mount_bind, mount_move, mount_remount, unmount,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::RebootCommand;

use super::{DISK, GuestError, MODULES, port};
use crate::order::Order;

/// The only disk.
const DEVICE: &str = "/dev/vda";
/// How long devices may take to appear once their modules are loaded.
pub(super) const DEVICES: Duration = Duration::from_secs(20);
/// Open files of a process: what service managers give, against the kernel's 4096.
const FILES: Rlimit = Rlimit { current: Some(1024), maximum: Some(1 << 19) };
/// How far the clock may be off before it is set: messages take a moment.
const CLOCK_ERROR: Duration = Duration::from_millis(100);

/// Makes the machine ready; the port to the host.
///
/// # Errors
///
/// When anything is missing.
pub fn boot() -> Result<OwnedFd, GuestError> {
    own_root().map_err(GuestError::start("make a root that can be left"))?;
    mounts()?;
    load_modules()?;
    setrlimit(Resource::Nofile, FILES).map_err(GuestError::start("allow open files"))?;
    rustix::system::sethostname(b"builder").map_err(GuestError::start("set the host name"))?;
    loopback().map_err(GuestError::start("set up loopback"))?;
    port::open()
}

/// The kernel's first root cannot be pivoted away from. A second mount of the same tree, put on top of it, can.
fn own_root() -> rustix::io::Result<()> {
    mount_bind("/", DISK)?;
    rustix::process::chdir(DISK)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}

fn mounts() -> Result<(), GuestError> {
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, at, flags, options) in [
        ("proc", "/proc", closed, c""),
        ("sysfs", "/sys", closed, c""),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC, c"mode=755"),
        ("tmpfs", "/tmp", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755"),
        // As service managers mount it: a namespace of groups is a border that no process is moved across.
        ("cgroup2", "/sys/fs/cgroup", closed, c"nsdelegate,memory_recursiveprot"),
    ] {
        mount(kind, at, kind, flags, options).map_err(GuestError::start(format!("mount {at}")))?;
    }
    Ok(())
}

/// Loads modules in the order of their names. One that this machine has no use for fails, and its device is not missed.
fn load_modules() -> Result<(), GuestError> {
    let failed = || GuestError::start("read the kernel modules");
    let mut paths: Vec<PathBuf> = fs::read_dir(MODULES)
        .map_err(failed())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed())?;
    paths.sort();
    for path in paths {
        let module = File::open(&path).map_err(failed())?;
        match rustix::system::finit_module(&module, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => eprintln!("cofferdam: load {}: {error}", path.display()),
        }
    }
    // They are in the kernel now, and this tree is memory.
    fs::remove_dir_all(MODULES).map_err(failed())
}

/// Brings the loopback interface up: the builder's own TCP listener is there.
fn loopback() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an ifreq is made of integers and bytes.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (at, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *at = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the socket is open and the request a whole ifreq with a name that ends.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } != 0
    {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Mounts the store's disk, and makes its file system as large as the disk is.
///
/// # Errors
///
/// When there is no disk, or what is on it cannot be mounted.
pub fn mount_store() -> Result<PathBuf, GuestError> {
    let end = Instant::now() + DEVICES;
    while !Path::new(DEVICE).exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    // What is deleted is given back to the host; tables that mkfs left for later stay holes in its file.
    mount(DEVICE, DISK, "ext4", flags, c"discard,noinit_itable,errors=remount-ro")
        .map_err(GuestError::start("mount the store's disk"))?;
    grow().map_err(GuestError::start("make the store's file system as large as its disk"))?;
    Ok(Path::new(DISK).join("store"))
}

fn grow() -> std::io::Result<()> {
    /// `EXT4_IOC_RESIZE_FS` of the kernel's fs/ext4/ext4.h: `_IOW('f', 16, __u64)`.
    const RESIZE: libc::c_ulong = 0x4008_6610;
    let sectors = fs::read_to_string("/sys/class/block/vda/size")?;
    let sectors: u64 = sectors.trim().parse().map_err(std::io::Error::other)?;
    let root = File::open(DISK)?;
    let found = rustix::fs::fstatvfs(&root)?;
    let block = found.f_frsize.max(512);
    let blocks: u64 = sectors * 512 / block;
    // The statistics leave out what the file system takes for itself, which is less than a sixteenth.
    if found.f_blocks + found.f_blocks / 16 >= blocks {
        return Ok(());
    }
    // SAFETY: the descriptor is open, and the kernel reads one u64.
    if unsafe { libc::ioctl(root.as_raw_fd(), RESIZE as _, &raw const blocks) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the clock, the generator of random numbers and the table of hosts.
pub(super) fn settle(order: &Order) -> Result<(), GuestError> {
    if !order.hosts.is_empty() {
        fs::write("/etc/hosts", &order.hosts).map_err(GuestError::start("write /etc/hosts"))?;
    }
    set_clock(order.time)?;
    File::options()
        .write(true)
        .open("/dev/urandom")
        .and_then(|mut random| random.write_all(&order.seed))
        .map_err(GuestError::start("seed the generator of random numbers"))
}

/// Sets the clock, unless it is right.
pub(super) fn set_clock(time: Duration) -> Result<(), GuestError> {
    let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if own.abs_diff(time) < CLOCK_ERROR {
        return Ok(());
    }
    let now = rustix::time::Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(0),
        tv_nsec: time.subsec_nanos().into(),
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, now)
        .map_err(GuestError::start("set the clock"))
}

/// Writes everything down and leaves the disk as one that was unmounted.
pub(super) fn settle_disk() {
    rustix::fs::sync();
    if unmount(DISK, UnmountFlags::empty()).is_err() {
        let readonly = MountFlags::RDONLY;
        if let Err(error) = mount_remount(DISK, readonly, CString::default()) {
            eprintln!("cofferdam: the store's disk cannot be unmounted: {error}");
        }
    }
    rustix::fs::sync();
}

/// Turns the machine off.
pub fn power_off() -> ! {
    rustix::fs::sync();
    // Firecracker's machines have no power switch: it ends when its guest starts again.
    let command = if port::is_virtio() { RebootCommand::PowerOff } else { RebootCommand::Restart };
    rustix::system::reboot(command).ok();
    // The end of init is a panic, which ends the machine as well.
    std::process::exit(1)
}
