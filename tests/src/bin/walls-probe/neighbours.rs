//! Other processes, their shared memory, their files in /dev/shm and /tmp.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::{Facts, errno, say};

pub(crate) fn all(facts: &Facts<'_>) {
    processes(facts);
    shared_memory(facts);
    let planted = facts.get("shm-file");
    let text = std::fs::read_to_string(planted).unwrap_or_default();
    say("dev-shm", text.contains(facts.get("canary-text")), planted);
}

/// The process that the test started outside, by its mark: seen, signalled, traced, its environment read.
fn processes(facts: &Facts<'_>) {
    let mark = facts.get("mark");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let victim = pids.iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
            && !String::from_utf8_lossy(&line).contains("walls/probe")
    });
    say("process-seen", victim.is_some(), &format!("{} processes", pids.len()));
    let environment = victim.and_then(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok());
    let told =
        environment.is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains("WALLS_CANARY"));
    say("process-environment", told, "/proc/<pid>/environ");
    let given: i32 = facts.get("pid").parse().unwrap();
    let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, given, 0, 0) } == 0;
    let answer = errno().1;
    say("process-traced", traced && victim.is_some(), &answer);
    let signalled = unsafe { libc::kill(given, 0) } == 0;
    // The number may be a process of the step's own.
    say("process-signalled", signalled && victim.is_some(), &errno().1);
    let mut here = [0_u8; 8];
    let local = libc::iovec { iov_base: here.as_mut_ptr().cast(), iov_len: 8 };
    let remote = libc::iovec { iov_base: 0x1000 as *mut _, iov_len: 8 };
    let read =
        unsafe { libc::process_vm_readv(given, &raw const local, 1, &raw const remote, 1, 0) };
    let (code, answer) = errno();
    // A bad address is an answer about the victim's memory.
    say("process-memory", victim.is_some() && (read >= 0 || code == libc::EFAULT), &answer);
}

fn shared_memory(facts: &Facts<'_>) {
    let key: i32 = facts.get("shm-key").parse().unwrap();
    let id = unsafe { libc::shmget(key, 0, 0) };
    say("shared-memory", id >= 0, if id >= 0 { "found" } else { "not found" });
}

/// Plants a segment of shared memory for everybody.
pub(crate) fn plant_shared_memory(key: i32) {
    let id = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) };
    assert!(id >= 0, "{}", errno().1);
}

/// Removes it.
pub(crate) fn remove_shared_memory(key: i32) {
    let id = unsafe { libc::shmget(key, 0, 0) };
    unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
}

/// What an agent at `SSH_AUTH_SOCK` says when asked for its identities.
pub(crate) fn ask_agent() -> String {
    let Ok(path) = std::env::var("SSH_AUTH_SOCK") else { return "no agent".to_owned() };
    let Ok(mut stream) = UnixStream::connect(path) else { return "no answer".to_owned() };
    stream.write_all(&[0, 0, 0, 1, 11]).unwrap();
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap_or(0);
    format!(
        "answered {length} bytes: {}",
        String::from_utf8_lossy(&answer[..length]).contains("key-of-the-test")
    )
}
