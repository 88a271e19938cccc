//! The hostile command: tries things and prints what came of them, one `name result` per line.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "calls that are made to be refused, with arguments the kernel checks"
)]
#![allow(unsafe_code)]

use std::process::ExitCode;

pub(crate) fn main(args: &[String]) -> ExitCode {
    match args.first().map(String::as_str) {
        Some("calls") => calls(),
        Some("sockets") => sockets(),
        Some("descriptors") => descriptors(),
        Some("memory") => memory(),
        Some("abstract") => abstract_socket(args.get(1).map_or("", String::as_str)),
        Some("connect") => connect(args.get(1).map_or("", String::as_str)),
        Some("parent") => outside_process(),
        Some("identity") => println!("{}", unsafe { libc::geteuid() }),
        Some("ping") => ping(args.get(1).map_or("", String::as_str)),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn say(name: &str, result: i64) {
    let outcome = if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        match errno {
            libc::EPERM => "EPERM".to_owned(),
            libc::ENOSYS => "ENOSYS".to_owned(),
            libc::EINVAL => "EINVAL".to_owned(),
            libc::EFAULT => "EFAULT".to_owned(),
            libc::EBADF => "EBADF".to_owned(),
            libc::ESRCH => "ESRCH".to_owned(),
            libc::EPROTONOSUPPORT => "EPROTONOSUPPORT".to_owned(),
            libc::EAFNOSUPPORT => "EAFNOSUPPORT".to_owned(),
            other => format!("errno {other}"),
        }
    } else {
        "done".to_owned()
    };
    println!("{name} {outcome}");
}

macro_rules! attempt {
    ($($name:literal $number:expr, $($argument:expr),* ;)*) => {
        $( say($name, unsafe { libc::syscall($number, $($argument),*) }); )*
    };
}

fn calls() {
    let path = c"/tmp".as_ptr();
    let tmpfs = c"tmpfs".as_ptr();
    attempt! {
        "mount" libc::SYS_mount, tmpfs, path, tmpfs, 0, 0;
        "umount" libc::SYS_umount2, path, 0;
        "pivot_root" libc::SYS_pivot_root, path, path;
        "fsopen" libc::SYS_fsopen, tmpfs, 0;
        "open_tree" libc::SYS_open_tree, libc::AT_FDCWD, path, 1;
        "move_mount" libc::SYS_move_mount, -1, path, -1, path, 0;
        "mount_setattr" libc::SYS_mount_setattr, -1, path, 0, 0, 0;
        "unshare-user" libc::SYS_unshare, libc::CLONE_NEWUSER;
        "unshare-net" libc::SYS_unshare, libc::CLONE_NEWNET;
        "setns" libc::SYS_setns, 0, 0;
        "keyctl" libc::SYS_keyctl, 0, -3, 1;
        "add_key" libc::SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"y".as_ptr(), 1, -3;
        "request_key" libc::SYS_request_key, c"user".as_ptr(), c"x".as_ptr(), 0, 0;
        "io_uring_setup" libc::SYS_io_uring_setup, 1, 0;
        "bpf" libc::SYS_bpf, 0, 0, 0;
        "userfaultfd" libc::SYS_userfaultfd, 1;
        "perf_event_open" libc::SYS_perf_event_open, 0, 0, -1, -1, 0;
        "open_by_handle_at" libc::SYS_open_by_handle_at, -1, 0, 0;
        "name_to_handle_at" libc::SYS_name_to_handle_at, -1, path, 0, 0, 0;
        "kexec_load" libc::SYS_kexec_load, 0, 0, 0, 0;
        "init_module" libc::SYS_init_module, 0, 0, 0;
        "reboot" libc::SYS_reboot, 0, 0, 0, 0;
        "swapon" libc::SYS_swapon, path, 0;
        "sethostname" libc::SYS_sethostname, path, 4;
        "settimeofday" libc::SYS_settimeofday, 0, 0;
        "syslog" libc::SYS_syslog, 3, 0, 0;
        "fanotify_init" libc::SYS_fanotify_init, 0, 0;
        "memfd_secret" libc::SYS_memfd_secret, 0;
        "clone3" libc::SYS_clone3, 0, 0;
        "unknown" 999, 0;
        "statmount" 457, 0, 0, 0, 0;
        "landlock" libc::SYS_landlock_create_ruleset, 0, 0, 1;
    }
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        unsafe { libc::_exit(0) };
    }
    say("clone-user", pid);
}

fn sockets() {
    for (name, family, kind, protocol) in [
        ("unix", libc::AF_UNIX, libc::SOCK_STREAM, 0),
        ("inet", libc::AF_INET, libc::SOCK_STREAM, 0),
        ("route", libc::AF_NETLINK, libc::SOCK_RAW, 0),
        ("netfilter", libc::AF_NETLINK, libc::SOCK_RAW, 12),
        ("audit", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        ("xfrm", libc::AF_NETLINK, libc::SOCK_RAW, 6),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("key", libc::AF_KEY, libc::SOCK_RAW, 2),
        ("rxrpc", 33, libc::SOCK_DGRAM, 0),
        ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
        ("ping", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
    ] {
        say(name, i64::from(unsafe { libc::socket(family, kind, protocol) }));
    }
    let mut pair = [0; 2];
    say(
        "tipc-pair",
        i64::from(unsafe { libc::socketpair(30, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) }),
    );
}

fn descriptors() {
    // Found by asking, not by listing: a listing opens one itself.
    for fd in 0..4096 {
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            println!("open {fd}");
        }
    }
}

/// Takes memory until it is stopped.
fn memory() {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    loop {
        taken.push(vec![1; 1 << 20]);
        std::hint::black_box(&taken);
    }
}

fn abstract_socket(name: &str) {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
    let connected =
        address.and_then(|address| std::os::unix::net::UnixStream::connect_addr(&address));
    println!("abstract {}", if connected.is_ok() { "done" } else { "refused" });
}

/// Prints what the server at a socket's path says.
fn connect(path: &str) {
    use std::io::Read;
    let mut said = String::new();
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(mut stream) => {
            stream.read_to_string(&mut said).ok();
            println!("said {}", said.trim());
        }
        Err(error) => println!("refused {error}"),
    }
}

/// Sends one echo request the way an ordinary user may, and waits a moment for the answer.
fn ping(address: &str) {
    let address: std::net::Ipv4Addr = address.parse().expect("an address");
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP);
        let wait = libc::timeval { tv_sec: 0, tv_usec: 300_000 };
        let size = size_of::<libc::timeval>() as libc::socklen_t;
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const wait).cast(),
            size,
        );
        let mut to: libc::sockaddr_in = std::mem::zeroed();
        to.sin_family = libc::AF_INET as libc::sa_family_t;
        to.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let request = [8_u8, 0, 0, 0, 0, 0, 0, 1];
        let sent = libc::sendto(
            socket,
            request.as_ptr().cast(),
            request.len(),
            0,
            (&raw const to).cast(),
            size,
        );
        say("sent", sent as i64);
        let mut answer = [0_u8; 64];
        println!(
            "answered {}",
            libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) > 0
        );
    }
}

fn outside_process() {
    for pid in 2..300 {
        if unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0) } == 0 {
            println!("traced {pid}");
        }
        if unsafe { libc::kill(pid, 0) } == 0 {
            println!("saw {pid}");
        }
    }
    println!("end of processes");
}
