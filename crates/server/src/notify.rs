//! What a service manager is told about this process: that it serves, that it stops.
//!
//! One datagram to the socket that `NOTIFY_SOCKET` names, in the manner of systemd. Nothing is read, nobody is waited for longer
//! than a moment, and without the variable nothing is done.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The variable with the socket's address.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How long a manager that is busy is waited for: one that never hears of the start ends the service.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells the service manager, if one asked for it: lines such as `READY=1`, `STOPPING=1`, `STATUS=…`.
pub fn notify(state: &str) {
    let Some(address) = std::env::var_os(SOCKET).filter(|address| !address.is_empty()) else {
        return;
    };
    if let Err(error) = send(&address, state) {
        tracing::warn!(%error, "the service manager at NOTIFY_SOCKET cannot be told");
    }
}

fn send(address: &OsStr, state: &str) -> io::Result<()> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_socket_with_a_path_hears_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        send(path.as_os_str(), "READY=1").unwrap_err();
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn a_socket_with_an_abstract_name_hears_it() {
        let name = format!("cofferdam-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1\nSTATUS=ends").unwrap();
        assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=ends");
    }
}
