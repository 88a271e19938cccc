//! What is left to a builder that was taken over: its own process, behind landlock and, as the control, without it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Command, ExitCode, Stdio};

use cofferdam_sandbox::{Entered, confine_builder, detached_file};

pub(crate) fn main(entered: &Entered, confined: bool) -> ExitCode {
    let program = entered.store.join("tenant");
    fs::copy("/bin/busybox", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(entered.store.join("a/b")).unwrap();
    fs::create_dir(entered.store.join("mounted")).unwrap();
    // Whom somebody before the restrictions serves, abstractly.
    let name = SocketAddr::from_abstract_name("cofferdam-confined").unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    // Programs that were started before go on, as the launch helpers do.
    let mut helper =
        Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    if confined {
        confine_builder().unwrap();
    }
    let mount = || rustix::mount::mount_bind(&entered.store, entered.store.join("mounted")).is_ok();
    let attempts = [
        ("executes what a tenant wrote", Command::new(&program).arg("true").status().is_ok()),
        ("mounts", mount()),
    ];
    for (what, done) in attempts {
        assert_eq!(done, !confined, "{what}");
    }
    // Ports and scopes are younger than the rest.
    let version = landlock_version();
    if version >= 4 {
        assert_eq!(TcpListener::bind("127.0.0.1:0").is_ok(), !confined, "listens");
    }
    if version >= 6 {
        assert_eq!(UnixStream::connect_addr(&name).is_ok(), !confined, "talks abstractly");
    }
    // What a builder does in any case.
    assert!(Command::new("/bin/busybox").arg("true").status().unwrap().success());
    fs::write(entered.store.join("a/b/file"), "x").unwrap();
    fs::create_dir(entered.store.join("c")).unwrap();
    fs::rename(entered.store.join("a/b/file"), entered.store.join("c/file")).unwrap();
    assert_eq!(fs::read(entered.store.join("c/file")).unwrap(), b"x");
    assert!(detached_file(b"secret", (0, 0), 0o400).is_ok());
    helper.stdin.take().unwrap().write_all(b"still there").unwrap();
    let mut said = String::new();
    helper.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "still there");
    assert!(helper.wait().unwrap().success());
    ExitCode::SUCCESS
}

/// The kernel's version of the interface.
fn landlock_version() -> i64 {
    // SAFETY: without attributes and with this flag the call reads nothing and gives the version.
    unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32)
    }
}
