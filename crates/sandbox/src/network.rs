//! The inside of a step's network namespace: loopback, and for steps with a gate a TUN device with an address and a route.
//!
//! The namespace belongs to the builder's user namespace, so a step has no power over what is set here. Everything is done with
//! the classic interface requests of netdevice(7); no external program and no netlink socket is involved.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::namespaces::check;

/// Address of a step on its TUN device. Every step has the same: each is alone in its namespace.
pub const STEP_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 206, 0, 2);
/// Address of the gate as a step sees it: default route and name server.
pub const GATE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 206, 0, 1);
/// Length of the network prefix both are in.
pub const STEP_PREFIX_LENGTH: u8 = 30;
/// The same as a mask.
pub const STEP_NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
/// Largest packet on the device. Nothing but memory is behind it, so large packets save work.
pub const STEP_MTU: u16 = 65_520;
/// Name of the device in the step; what programs expect of a container.
pub const STEP_INTERFACE: &str = "eth0";

/// Request codes that are missing from the C library's crate, from linux/sockios.h and linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Brings up `lo`, which gives it 127.0.0.1 and ::1, and lets any user of the namespace listen on low ports and send pings.
pub(crate) fn prepare_loopback() -> Result<(), Errno> {
    let control = control_socket()?;
    bring_up(&control, "lo")?;
    // A step's root has no capability over this namespace, so what programs expect of root must be open to all.
    write_setting(c"/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0")
}

/// Lets the groups `first..=last` of the caller's user namespace open ping sockets.
pub(crate) fn allow_ping(first: u32, last: u32) -> Result<(), Errno> {
    write_setting(c"/proc/sys/net/ipv4/ping_group_range", format!("{first} {last}").as_bytes())
}

/// Creates the TUN device by which the builder itself reaches its gate.
///
/// There is no loopback beside it: 127.0.0.1 is the host's, as it is to programs without walls, and the gate decides on it as on
/// every address.
pub(crate) fn create_builders_tun() -> Result<OwnedFd, Errno> {
    let tun = create_tun()?;
    write_setting(c"/proc/sys/net/ipv4/conf/eth0/route_localnet", b"1")?;
    // For steps that share the builder's network.
    write_setting(c"/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0")?;
    Ok(tun)
}

/// Creates the TUN device of a gate in the caller's network namespace.
pub(crate) fn create_tun() -> Result<OwnedFd, Errno> {
    // No IPv6 on the device: there is no filtered way for it, and it must not appear by itself.
    match write_setting(c"/proc/sys/net/ipv6/conf/default/disable_ipv6", b"1") {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let tun = rustix::fs::open(
        c"/dev/net/tun",
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    let mut request = interface(STEP_INTERFACE);
    // Both constants are small and positive.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    ioctl(&tun, TUNSETIFF, &mut request)?;

    let control = control_socket()?;
    let mut request = interface(STEP_INTERFACE);
    request.ifr_ifru.ifru_addr = address(STEP_ADDRESS);
    ioctl(&control, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = address(STEP_NETMASK);
    ioctl(&control, libc::SIOCSIFNETMASK, &mut request)?;
    request.ifr_ifru.ifru_mtu = i32::from(STEP_MTU);
    ioctl(&control, libc::SIOCSIFMTU, &mut request)?;
    bring_up(&control, STEP_INTERFACE)?;
    add_default_route(&control)?;
    Ok(tun)
}

fn control_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

fn bring_up(control: &OwnedFd, name: &str) -> Result<(), Errno> {
    let mut request = interface(name);
    ioctl(control, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: the request just made has filled in the flags, the member of the union that is read here.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    ioctl(control, libc::SIOCSIFFLAGS, &mut request)
}

fn add_default_route(control: &OwnedFd) -> Result<(), Errno> {
    /// `struct rtentry` of linux/route.h on 64-bit machines.
    #[repr(C)]
    struct Route {
        pad1: libc::c_ulong,
        destination: libc::sockaddr,
        gateway: libc::sockaddr,
        mask: libc::sockaddr,
        flags: libc::c_ushort,
        pad2: libc::c_short,
        pad3: libc::c_ulong,
        pad4: *mut libc::c_void,
        metric: libc::c_short,
        device: *mut libc::c_char,
        mtu: libc::c_ulong,
        window: libc::c_ulong,
        round_trip: libc::c_ushort,
    }
    let mut route = Route {
        pad1: 0,
        destination: address(Ipv4Addr::UNSPECIFIED),
        gateway: address(GATE_ADDRESS),
        mask: address(Ipv4Addr::UNSPECIFIED),
        flags: libc::RTF_UP | libc::RTF_GATEWAY,
        pad2: 0,
        pad3: 0,
        pad4: std::ptr::null_mut(),
        metric: 0,
        device: std::ptr::null_mut(),
        mtu: 0,
        window: 0,
        round_trip: 0,
    };
    ioctl(control, libc::SIOCADDRT, &mut route)
}

fn interface(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is made of integers and byte arrays, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn ioctl<T>(fd: &OwnedFd, code: libc::c_ulong, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: each caller passes the structure its request code reads and writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), code as _, std::ptr::from_mut(argument)) })
}

fn write_setting(path: &std::ffi::CStr, value: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value).map(|_| ())
}
