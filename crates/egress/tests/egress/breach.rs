//! What is left to a gate that was taken over: what its own thread can still do, and, as the control, what it could without landlock.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cofferdam_egress::{GateOptions, control_pair};
use rustix::process::{Pid, test_kill_process};

use crate::world::CONTROL;

/// Says to the child whether it gives up files: `yes` or `no`.
const LANDLOCK: &str = "COFFERDAM_TEST_GATE_LANDLOCK";
/// And where it may try things.
const PLACE: &str = "COFFERDAM_TEST_GATE_PLACE";
/// Who the gate becomes when it is started as root.
const USER: u32 = 54321;

/// What a kernel with every right that the gate gives up refuses.
const ATTEMPTS: &[&str] =
    &["reads", "lists", "writes", "removes", "executes", "listens", "talks abstractly", "signals"];

/// The gate, which is let go at once; then whoever took it over tries what it can.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn breached_gate() {
    let Ok(control) = std::env::var(CONTROL) else { return };
    let Ok(place) = std::env::var(PLACE) else { return };
    let place = Path::new(&place);
    // SAFETY: the parent left the control socket open at this number for us alone.
    let control = unsafe { OwnedFd::from_raw_fd(control.parse().unwrap()) };
    let landlock = std::env::var(LANDLOCK).unwrap() == "yes";
    // Ends with this process, which may not be able to end it.
    let mut sibling = Command::new("/bin/cat").stdin(Stdio::piped()).uid(USER).spawn().unwrap();
    let served = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = GateOptions { uid: Some(USER), gid: None, landlock };
    let policy = serde_json::from_str("{}").unwrap();
    cofferdam_egress::run_gate_with(control, policy, options).unwrap();

    let name = SocketAddr::from_abstract_name(place.as_os_str().as_encoded_bytes()).unwrap();
    let pid = Pid::from_child(&sibling);
    let attempts = [
        ("reads", File::open(place.join("file")).is_ok()),
        ("lists", fs::read_dir(place).is_ok()),
        ("writes", fs::write(place.join("new"), "x").is_ok()),
        ("removes", fs::remove_file(place.join("victim")).is_ok()),
        ("executes", Command::new("/bin/true").status().is_ok()),
        ("listens", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("talks abstractly", UnixStream::connect_addr(&name).is_ok()),
        ("signals", test_kill_process(pid).is_ok()),
        // What a gate is there for.
        ("connects", TcpStream::connect(served.local_addr().unwrap()).is_ok()),
    ];
    let done: Vec<&str> =
        attempts.iter().filter(|(_, done)| *done).map(|(what, _)| *what).collect();
    println!("DONE {}", done.join(", "));
    drop(sibling.stdin.take());
    sibling.wait().unwrap();
}

/// What a gate that was taken over gets done.
fn breach(landlock: bool) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["file", "victim"] {
        fs::write(place.path().join(name), "x").unwrap();
    }
    let name = SocketAddr::from_abstract_name(place.path().as_os_str().as_encoded_bytes()).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    let (ours, theirs) = control_pair().unwrap();
    let number = theirs.as_raw_fd();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "breach::breached_gate", "--ignored", "--nocapture"])
        .env(CONTROL, number.to_string())
        .env(PLACE, place.path())
        .env(LANDLOCK, if landlock { "yes" } else { "no" });
    // SAFETY: fcntl is a plain system call; the descriptor is open in the child.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(number, libc::F_SETFD, 0) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop((ours, theirs));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let done = said.split_once("DONE ").and_then(|(_, rest)| rest.lines().next());
    done.unwrap_or_else(|| panic!("{said}")).split(", ").map(str::to_owned).collect()
}

#[test]
fn a_gate_that_was_taken_over_has_no_files_programs_or_listeners() {
    if !crate::world::may_run() {
        return;
    }
    let everything: Vec<&str> = ATTEMPTS.iter().copied().chain(["connects"]).collect();
    assert_eq!(breach(false), everything, "control");
    let left = breach(true);
    // Older kernels know fewer of the rights: those of ports came with the fourth version, of sockets and signals with the sixth.
    let version = landlock_version();
    let expected: Vec<&str> = everything
        .into_iter()
        .filter(|what| match *what {
            "connects" => true,
            "listens" => version < 4,
            "talks abstractly" | "signals" => version < 6,
            _ => false,
        })
        .collect();
    assert_eq!(left, expected);
}

fn landlock_version() -> libc::c_long {
    // SAFETY: without attributes and with this flag the call reads nothing and gives the version.
    unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32)
    }
}
