//! The host's half against a stand-in for Firecracker: this test program again, which reads the description that Firecracker would
//! be given and does with sockets what its docs/vsock.md says that Firecracker does for a guest.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::*;
use crate::guest::VSOCK_PORT;
use crate::machine::{Accelerator, Hypervisor};
use crate::order::MAX_ORDER;

/// What the guest's builder ends with.
const CODE: i32 = 7;

#[test]
#[ignore = "started by the other tests as a process of its own"]
fn stand_in() {
    let Ok(file) = std::fs::File::open("/proc/self/fd/3") else { return };
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).ok();
    let Ok(description) = serde_json::from_str::<serde_json::Value>(&text) else { return };
    let Some(channel) = description["vsock"]["uds_path"].as_str() else { return };
    println!("stand-in has {}", description["drives"][0]["path_on_host"]);
    let host = format!("{channel}_{VSOCK_PORT}");
    let port = UnixStream::connect(&host).unwrap();
    port.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let port = tokio::net::UnixStream::from_std(port).unwrap();
        let (_channel, mut incoming, _driver) = channel::start(port, Side::Guest);
        let mut stream = channel::stream(incoming.next().await.unwrap());
        assert_eq!(Purpose::read(&mut stream).await.unwrap(), Purpose::Order);
        let order: Order = channel::receive(&mut stream, MAX_ORDER).await.unwrap().unwrap();
        assert_eq!(order.config, "configuration");
        channel::send(&mut stream, &News::Ready).await.unwrap();
        let mut client = channel::stream(incoming.next().await.unwrap());
        assert_eq!(Purpose::read(&mut client).await.unwrap(), Purpose::Client(0));
        let (mut input, mut output) = tokio::io::split(client);
        tokio::io::copy(&mut input, &mut output).await.unwrap();
        // Nobody comes after the first: neither at the port of the channel nor at another.
        let again = UnixStream::connect(&host).is_ok();
        let other = UnixStream::connect(format!("{channel}_{}", VSOCK_PORT + 1)).is_ok();
        let code = if again || other { 1 } else { CODE };
        channel::send(&mut stream, &News::Ended(code)).await.unwrap();
        // As in a guest: the host has taken it after a moment.
        tokio::time::sleep(Duration::from_millis(50)).await;
    });
}

/// A machine that is `script`.
fn plan(dir: &Path, script: &str) -> Plan {
    let program = dir.join("firecracker");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Plan {
        machine: Machine {
            hypervisor: Hypervisor::Firecracker { program },
            kernel: "/kernel".into(),
            initramfs: "/initramfs".into(),
            accelerator: Accelerator::Kvm,
            memory: 1 << 30,
            cpus: 1,
        },
        disk: 1 << 20,
        landlock: false,
        order: Order {
            config: "configuration".to_owned(),
            env: Vec::new(),
            hosts: String::new(),
            listeners: vec!["unix".to_owned()],
            pids: None,
            time: Duration::ZERO,
            seed: Vec::new(),
        },
    }
}

async fn run(dir: &Path, script: &str) -> Result<i32, (String, Vec<String>)> {
    let plan = plan(dir, script);
    let sockets = dir.join("sockets");
    let (monitor, port) = Monitor::start(&plan.machine, &dir.join("disk"), &sockets).unwrap();
    let mode = std::fs::metadata(&sockets).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let console = Rc::clone(&monitor.console);
    let listener = std::os::unix::net::UnixListener::bind(dir.join("builder")).unwrap();
    let parts = Parts {
        store: dir.to_owned(),
        plan,
        listeners: vec![Listener::Unix(listener)],
        gate: None,
    };
    let host = Host::new(parts, monitor, port).unwrap();
    host.run().await.map_err(|failure| match failure {
        Failure::Machine(error) => (error.to_string(), Vec::new()),
        Failure::Ended(how) => (how, console.borrow().last_lines()),
    })
}

#[tokio::test]
async fn a_guest_of_firecracker_comes_by_itself_and_once() {
    use tokio::io::AsyncWriteExt;
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let script =
        format!("exec {} --ignored --exact host::tests::stand_in --nocapture", this.display());
    let client = async {
        let mut stream = tokio::net::UnixStream::connect(dir.path().join("builder")).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let (code, answer) =
        LocalSet::new().run_until(async { tokio::join!(run(dir.path(), &script), client) }).await;
    assert_eq!(code, Ok(CODE));
    assert_eq!(answer, b"hello");
}

#[tokio::test]
async fn a_machine_that_does_not_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), "echo the description is wrong; exit 3");
    let (how, console) = LocalSet::new().run_until(run).await.unwrap_err();
    assert_eq!(
        (how.as_str(), console),
        ("ended with exit status: 3", vec!["the description is wrong".to_owned()])
    );
}

/// Landlock restricts the thread that asks for it and what that starts, and so no other test.
#[test]
fn a_machines_process_runs_the_system_and_its_monitor_and_nothing_that_was_brought() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let path = dir.path().join(name);
        std::fs::copy("/bin/true", &path).unwrap();
        path
    };
    let (monitor, brought) = (copy("monitor"), copy("brought"));
    let attempts = |confined: bool| {
        let (monitor, brought) = (monitor.clone(), brought.clone());
        let attempt = move || {
            if confined {
                confine_machine(Some(&monitor)).unwrap();
            }
            let runs = |program: &Path| {
                std::process::Command::new(program).status().is_ok_and(|status| status.success())
            };
            let listens = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
            [runs(Path::new("/bin/true")), runs(&monitor), runs(&brought), listens]
        };
        std::thread::spawn(attempt).join().unwrap()
    };
    assert_eq!(attempts(false), [true; 4], "control");
    assert_eq!(attempts(true), [true, true, false, false]);
}

/// The smallest guest there is: says "Linux version" on the serial line, and asks the keyboard's controller to reset the machine.
fn tiny_kernel() -> Vec<u8> {
    /// Where it is loaded, and where in the file it begins.
    const ADDRESS: u64 = 16 << 20;
    const OFFSET: u64 = 120;
    // lea text, %rsi; 1: lodsb; test %al, %al; jz 2f; mov $0x3f8, %dx; out %al, (%dx); jmp 1b;
    // 2: mov $0xfe, %al; out %al, $0x64; 3: hlt; jmp 3b
    let mut code =
        b"\x48\x8d\x35\x14\0\0\0\xac\x84\xc0\x74\x07\x66\xba\xf8\x03\xee\xeb\xf4".to_vec();
    code.extend(b"\xb0\xfe\xe6\x64\xf4\xeb\xfd\x90Linux version tiny\n\0");
    let length = code.len() as u64;
    // The header of a program for x86-64 with one segment (System V gABI), then that segment.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([ADDRESS, 64, 0].iter().flat_map(|number| number.to_le_bytes()));
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\x40\0\0\0\0\0");
    file.extend(b"\x01\0\0\0\x05\0\0\0");
    let segment = [OFFSET, ADDRESS, ADDRESS, length, length, 4096];
    file.extend(segment.iter().flat_map(|number| number.to_le_bytes()));
    assert_eq!(file.len() as u64, OFFSET);
    file.extend(code);
    file
}

/// Against Firecracker itself, where it is installed and KVM can be opened; elsewhere nothing is tried.
#[tokio::test]
async fn firecracker_accepts_what_it_is_told_about_a_machine() {
    let Ok(found) = crate::firecracker::Firecracker::find(None) else {
        return eprintln!("not run: there is no Firecracker");
    };
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return eprintln!("not run: /dev/kvm cannot be opened");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut plan = plan(dir.path(), "");
    plan.machine.hypervisor = Hypervisor::Firecracker { program: found.program.clone() };
    plan.machine.kernel = dir.path().join("kernel");
    plan.machine.initramfs = dir.path().join("initramfs");
    std::fs::write(&plan.machine.kernel, tiny_kernel()).unwrap();
    std::fs::write(&plan.machine.initramfs, [0; 4096]).unwrap();
    let disk = dir.path().join("disk");
    std::fs::write(&disk, [0; 1 << 20]).unwrap();
    crate::probe::firecracker_works(&found.program, &plan.machine.kernel).unwrap();

    let start = async |plan: &Plan, sockets: &str| {
        let (mut monitor, _port) =
            Monitor::start(&plan.machine, &disk, &dir.path().join(sockets)).unwrap();
        let how = timeout(BOOT, monitor.ended()).await.unwrap();
        (how, monitor.console.borrow().last_lines().join("\n"))
    };
    LocalSet::new()
        .run_until(async {
            let (how, console) = start(&plan, "a").await;
            assert_eq!(how, "turned itself off", "{console}");
            assert!(console.contains("Linux version tiny"), "{console}");
            // What it does not accept it names.
            plan.machine.kernel = "/nowhere/kernel".into();
            let (how, console) = start(&plan, "b").await;
            assert!(how.starts_with("ended with exit status"), "{how}");
            assert!(console.contains("No such file"), "{console}");
        })
        .await;
}
