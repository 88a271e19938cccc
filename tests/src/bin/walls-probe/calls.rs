//! System calls that no step needs: each must be refused before the kernel looks at its arguments.

use crate::{errno, say};

/// Answers that mean that the call went nowhere. The last two are those of gVisor for what it leaves out.
const REFUSED: [i32; 5] = [libc::EPERM, libc::ENOSYS, libc::EACCES, libc::ENODEV, libc::EOPNOTSUPP];

macro_rules! attempt {
    ($($name:literal $number:expr, $($argument:expr),* ;)*) => {
        $( answer($name, unsafe { libc::syscall($number, $($argument),*) }); )*
    };
}

fn answer(name: &str, result: i64) {
    if result >= 0 {
        return say(name, true, "done");
    }
    let (code, word) = errno();
    say(name, !REFUSED.contains(&code), &word);
}

pub(crate) fn all() {
    mounting();
    privileged();
    surface();
    namespaces();
    other_tables();
}

fn mounting() {
    let path = c"/mnt".as_ptr();
    let tmpfs = c"tmpfs".as_ptr();
    let empty = c"".as_ptr();
    attempt! {
        "mount" libc::SYS_mount, tmpfs, path, tmpfs, 0, 0;
        "umount" libc::SYS_umount2, path, 0;
        "umount-mask" libc::SYS_umount2, c"/proc/kcore".as_ptr(), libc::MNT_DETACH;
        "mount-cgroup" libc::SYS_mount, c"cgroup".as_ptr(), path, c"cgroup".as_ptr(), 0, c"none,name=walls".as_ptr();
        "mount-overlay" libc::SYS_mount, c"o".as_ptr(), path, c"overlay".as_ptr(), 0, c"lowerdir=/bin:/etc".as_ptr();
        "mount-proc" libc::SYS_mount, c"p".as_ptr(), path, c"proc".as_ptr(), 0, 0;
        "remount" libc::SYS_mount, 0, c"/".as_ptr(), 0, libc::MS_REC | libc::MS_PRIVATE, 0;
        "pivot_root" libc::SYS_pivot_root, path, path;
        "fsopen" libc::SYS_fsopen, tmpfs, 0;
        "fspick" libc::SYS_fspick, libc::AT_FDCWD, path, 0;
        "fsmount" libc::SYS_fsmount, -1, 0, 0;
        "open_tree" libc::SYS_open_tree, libc::AT_FDCWD, path, 1;
        "move_mount" libc::SYS_move_mount, -1, empty, -1, empty, 0;
        "mount_setattr" libc::SYS_mount_setattr, -1, path, 0, 0, 0;
        "statmount" 457, 0, 0, 0, 0;
        "listmount" 458, 0, 0, 0, 0;
    }
}

fn privileged() {
    let path = c"/nowhere".as_ptr();
    attempt! {
        "kexec_load" libc::SYS_kexec_load, 0, 0, 0, 0x8000_0000_u64;
        "init_module" libc::SYS_init_module, 0, 0, 0;
        "finit_module" libc::SYS_finit_module, -1, 0, 0;
        "delete_module" libc::SYS_delete_module, path, 0;
        "reboot" libc::SYS_reboot, 0, 0, 0, 0;
        "swapon" libc::SYS_swapon, path, 0;
        "swapoff" libc::SYS_swapoff, path;
        "acct" libc::SYS_acct, path;
        "sethostname" libc::SYS_sethostname, 0, 65_000;
        "settimeofday" libc::SYS_settimeofday, 0, 0;
        "clock_settime" libc::SYS_clock_settime, 99, 0;
        "adjtimex" libc::SYS_adjtimex, 0;
        "syslog" libc::SYS_syslog, 10, 0, 0;
        "quotactl" libc::SYS_quotactl, 0, 0, 0, 0;
    }
    #[cfg(target_arch = "x86_64")]
    attempt! {
        "iopl" libc::SYS_iopl, 3;
        "ioperm" libc::SYS_ioperm, 0x80, 1, 1;
    }
}

fn surface() {
    let path = c"/".as_ptr();
    let mut ring = [0_u64; 15];
    let ring = ring.as_mut_ptr();
    attempt! {
        "keyctl" libc::SYS_keyctl, 0, -3, 1;
        "add_key" libc::SYS_add_key, c"user".as_ptr(), c"walls".as_ptr(), c"y".as_ptr(), 1, -3;
        "request_key" libc::SYS_request_key, c"user".as_ptr(), c"walls".as_ptr(), 0, 0;
        "io_uring_setup" libc::SYS_io_uring_setup, 1, ring;
        "bpf" libc::SYS_bpf, 0, 0, 0;
        "userfaultfd" libc::SYS_userfaultfd, 1;
        "perf_event_open" libc::SYS_perf_event_open, 0, 0, -1, -1, 0;
        "open_by_handle_at" libc::SYS_open_by_handle_at, -1, 0, 0;
        "name_to_handle_at" libc::SYS_name_to_handle_at, -1, path, 0, 0, 0;
        "fanotify_init" libc::SYS_fanotify_init, 0, 0;
        "memfd_secret" libc::SYS_memfd_secret, 0;
        "pidfd_getfd" libc::SYS_pidfd_getfd, -1, 0, 0;
        "kcmp" libc::SYS_kcmp, 1, 1, 99, 0, 0;
        "process_madvise" libc::SYS_process_madvise, -1, 0, 0, 0, 0;
        "vmsplice" libc::SYS_vmsplice, -1, 0, 0, 0;
    }
}

fn namespaces() {
    attempt! {
        "setns" libc::SYS_setns, 0, 0;
        "clone3" libc::SYS_clone3, 0, 0;
    }
    for (name, flag) in [
        ("user", libc::CLONE_NEWUSER),
        ("mount", libc::CLONE_NEWNS),
        ("net", libc::CLONE_NEWNET),
        ("cgroup", libc::CLONE_NEWCGROUP),
    ] {
        // In a child: what succeeds here must not change the attempts that follow.
        let code = in_child(|| {
            let done = unsafe { libc::unshare(flag) } == 0;
            if done { 0 } else { errno().0 }
        });
        say(
            &format!("unshare-{name}"),
            !REFUSED.contains(&code) && code != libc::ENOSPC,
            &named(code),
        );
        let flags = flag | libc::SIGCHLD;
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            unsafe { libc::_exit(0) };
        }
        let (code, word) = errno();
        if pid > 0 {
            unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
        }
        let refused = pid < 0 && (REFUSED.contains(&code) || code == libc::ENOSPC);
        say(&format!("clone-{name}"), !refused, if pid < 0 { &word } else { "done" });
    }
}

fn named(code: i32) -> String {
    if code == 0 { "done".to_owned() } else { crate::word(code) }
}

/// Runs something in a child of its own; gives the number it ends with, or 128 and the signal that ended it.
pub(crate) fn in_child(attempt: impl FnOnce() -> i32) -> i32 {
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = attempt();
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

/// The kernel's other tables of calls: a filter that knows one of them only is no filter.
fn other_tables() {
    #[cfg(target_arch = "x86_64")]
    {
        let code = in_child(|| {
            // socket(AF_ALG, SOCK_SEQPACKET, 0) of the 32-bit table, whose argument cannot be a pointer in 64 bits.
            let result: i64;
            unsafe {
                std::arch::asm!("xchg rbx, {arg}", "int 0x80", "xchg rbx, {arg}", arg = inout(reg) 38_i64 => _,
                    inout("rax") 359_i64 => result, in("rcx") 5, in("rdx") 0,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            if (-4095..0).contains(&(result as i32)) { -(result as i32) } else { 0 }
        });
        // Killed, or no such call: both mean that the table cannot be used.
        let refused = code == libc::ENOSYS || code >= 128 || code == libc::EPERM;
        say("abi-32", !refused, &named(code));
        let code = in_child(|| {
            let result = unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) };
            if result < 0 { errno().0 } else { 0 }
        });
        let refused = code == libc::ENOSYS || code >= 128 || code == libc::EPERM;
        say("abi-x32", !refused, &named(code));
    }
}
