//! Socket families, sockets of others, and addresses that no step may reach.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use crate::{Facts, errno, say};

/// Long enough for a listener on the same machine, short enough for many addresses.
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn all(facts: &Facts<'_>) {
    families();
    special();
    abstract_socket(facts.get("abstract"));
    path_sockets(facts);
    for name in ["loopback", "own"] {
        let answer = reach(facts.get(name));
        say(&format!("reach-{name}"), answer == "reached", &answer);
    }
}

/// Only what build tools use opens; everything else is refused without asking the kernel whether it has it.
fn families() {
    let mut open = Vec::new();
    let mut asked = Vec::new();
    for family in 0..46 {
        if [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].contains(&family) {
            continue;
        }
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
            let fd = unsafe { libc::socket(family, kind, 0) };
            let (code, word) = errno();
            if fd >= 0 {
                unsafe { libc::close(fd) };
                open.push(format!("{family}/{kind}"));
            } else if ![libc::EPERM, libc::ENOSYS, libc::EACCES].contains(&code) {
                asked.push(format!("{family}/{kind} {word}"));
            }
        }
    }
    say("families-open", !open.is_empty(), &format!("opened: {}", open.join(" ")));
    // An answer such as EAFNOSUPPORT comes from the kernel: another kernel would have opened it.
    say("families-asked", !asked.is_empty(), &format!("the kernel answered {} times", asked.len()));
}

fn special() {
    for (name, family, kind, protocol) in [
        ("netlink-netfilter", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        ("netlink-xfrm", libc::AF_NETLINK, libc::SOCK_RAW, 6),
        ("netlink-audit", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        ("alg", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("rxrpc", 33, libc::SOCK_DGRAM, 2),
        ("key", libc::AF_KEY, libc::SOCK_RAW, 2),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("vsock", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("raw", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
        ("raw6", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_TCP),
    ] {
        let fd = unsafe { libc::socket(family, kind, protocol) };
        let (code, word) = errno();
        let refused = fd < 0 && [libc::EPERM, libc::ENOSYS, libc::EACCES].contains(&code);
        // In a sandbox with a kernel of its own it is that kernel that does not know the family.
        let own = fd < 0
            && [libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT].contains(&code);
        if fd >= 0 {
            unsafe { libc::close(fd) };
        }
        say(&format!("socket-{name}"), fd >= 0, if fd >= 0 { "opened" } else { &word });
        // Of these the filter itself says that there are none, for programs that ask and go on.
        if name == "netlink-audit" {
            continue;
        }
        say(
            &format!("asked-{name}"),
            !refused,
            if own { "the kernel has no such family" } else { &word },
        );
    }
    let mut pair = [0; 2];
    let made = unsafe { libc::socketpair(30, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) };
    let (code, word) = errno();
    say("asked-tipc-pair", made == 0 || code != libc::EPERM, &word);
}

fn abstract_socket(name: &str) {
    let connected =
        SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
    match connected {
        Ok(_) => say("abstract", true, "connected"),
        Err(error) => say("abstract", false, &error.to_string()),
    }
}

/// The builder's socket at its path, and any socket that can be found.
fn path_sockets(facts: &Facts<'_>) {
    let path = facts.get("socket");
    match UnixStream::connect(path) {
        Ok(_) => say("builder-socket", true, "connected"),
        Err(error) => say("builder-socket", false, &error.to_string()),
    }
    let mut found = Vec::new();
    let mut todo = vec![std::path::PathBuf::from("/")];
    while let Some(directory) = todo.pop() {
        // Kernel file systems have no sockets, and descriptors in /proc lead to one's own.
        if ["/proc", "/sys"].iter().any(|skip| directory.starts_with(skip)) {
            continue;
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                todo.push(entry.path());
            } else if std::os::unix::fs::FileTypeExt::is_socket(&kind) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    say("sockets-found", !found.is_empty(), &format!("found: {}", found.join(" ")));
}

/// `reached` when something at `host:port` answers a request for a page.
pub(crate) fn reach(address: &str) -> String {
    let Ok(parsed) = address.parse() else { return format!("not an address: {address}") };
    let mut stream = match TcpStream::connect_timeout(&parsed, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    if let Err(error) = stream.write_all(b"GET / HTTP/1.0\r\n\r\n") {
        return error.to_string();
    }
    let mut answer = [0; 4];
    match stream.read_exact(&mut answer) {
        Ok(()) if &answer == b"HTTP" => "reached".to_owned(),
        Ok(()) => format!("connected, and got {answer:?}"),
        Err(error) => format!("connected, and then {error}"),
    }
}

/// Answers whoever connects, for ever.
pub(crate) fn listen(address: &str) {
    let listener = std::net::TcpListener::bind(address).unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut asked = [0; 1024];
        // Whoever goes away gets no answer.
        let _ = stream.read(&mut asked);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nmeta-of-the-host");
    }
}
