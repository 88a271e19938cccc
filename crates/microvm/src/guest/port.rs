//! The guest's end of what the host is reached by: QEMU's virtio port, or else a connection to the host over Firecracker's vsock.
//! Which of them there is says the machine, by its devices.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::start::DEVICES;
use super::{GuestError, PORT_NAME, VSOCK_PORT};

/// Where the kernel shows virtio ports.
const PORTS: &str = "/sys/class/virtio-ports";
/// Longest name of a port that is read.
const MAX_NAME: usize = 256;

/// Finds and opens the way to the host.
pub(super) fn open() -> Result<OwnedFd, GuestError> {
    let end = Instant::now() + DEVICES;
    loop {
        if let Some(path) = device() {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            return rustix::fs::open(&path, flags, Mode::empty())
                .map_err(GuestError::start(format!("open {}", path.display())));
        }
        match connect(VSOCK_PORT) {
            Ok(socket) => return Ok(socket),
            Err(error) if Instant::now() > end => return Err(GuestError::NoPort(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Whether this machine has virtio ports, as QEMU's have.
pub(super) fn is_virtio() -> bool {
    fs::read_dir(PORTS).is_ok_and(|mut ports| ports.next().is_some())
}

fn device() -> Option<PathBuf> {
    fs::read_dir(PORTS).ok()?.flatten().find_map(|entry| {
        let name = fs::read(entry.path().join("name")).ok()?;
        let name = name.get(..MAX_NAME.min(name.len()))?;
        let device = Path::new("/dev").join(entry.file_name());
        (name.trim_ascii() == PORT_NAME.as_bytes() && device.exists()).then_some(device)
    })
}

/// Connects to a port of the host, vsock(7).
fn connect(port: u32) -> io::Result<OwnedFd> {
    // SAFETY: three numbers; the answer is a new descriptor or an error.
    let socket = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: a sockaddr_vm is made of integers and bytes.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_HOST;
    address.svm_port = port;
    let length = std::mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the socket is open, and the address a whole sockaddr_vm of that length.
    let connected =
        unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if connected != 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}
