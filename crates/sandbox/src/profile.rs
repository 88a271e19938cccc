//! The profile of a step: which capabilities its root has and which calls it may make, each with the reason.
//!
//! Data only, and all of it: nothing else decides what a step may ask of the kernel. A capability that is not here is not to be
//! had; a call in no group is answered with `ENOSYS`.

use libc::c_long;

use crate::seccomp::{ALLOW, Condition, Test, UNSUPPORTED};

/// A capability of a step's root, valid in the step's own user namespace only.
pub(crate) struct Capability {
    /// Its number in linux/capability.h.
    pub(crate) number: u32,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by people and by the test that demands one")
    )]
    pub(crate) reason: &'static str,
}

const fn capability(number: u32, reason: &'static str) -> Capability {
    Capability { number, reason }
}

pub(crate) const CAPABILITIES: &[Capability] = &[
    capability(0, "CHOWN: package managers unpack files of many owners"),
    capability(1, "DAC_OVERRIDE: root writes where it likes, inside"),
    capability(3, "FOWNER: modes, times and links of files that root does not own"),
    capability(4, "FSETID: set-group-id bits survive a change of a file"),
    capability(5, "KILL: package scripts end services they started as other users"),
    capability(6, "SETGID: su and package scripts change groups"),
    capability(7, "SETUID: su and package scripts change users"),
    capability(10, "NET_BIND_SERVICE: test servers listen on low ports"),
    capability(18, "SYS_CHROOT: debootstrap and the like work in a root they made"),
    capability(31, "SETFCAP: package scripts give programs file capabilities"),
];

/// Calls that are treated alike for one reason.
pub(crate) struct Group {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by people and by the test that demands one")
    )]
    pub(crate) reason: &'static str,
    pub(crate) calls: &'static [c_long],
}

/// A call whose arguments decide.
pub(crate) struct Conditional {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by people and by the test that demands one")
    )]
    pub(crate) reason: &'static str,
    pub(crate) call: c_long,
    pub(crate) answers: &'static [(Condition, u32)],
}

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Calls newer than the C library's crate has names for; numbers are the same on every architecture.
mod newer {
    use libc::c_long;
    pub(super) const CACHESTAT: c_long = 451;
    pub(super) const MAP_SHADOW_STACK: c_long = 453;
    pub(super) const FUTEX_WAKE: c_long = 454;
    pub(super) const FUTEX_WAIT: c_long = 455;
    pub(super) const FUTEX_REQUEUE: c_long = 456;
    pub(super) const STATMOUNT: c_long = 457;
    pub(super) const LISTMOUNT: c_long = 458;
    pub(super) const LSM_GET_SELF_ATTR: c_long = 459;
    pub(super) const LSM_SET_SELF_ATTR: c_long = 460;
    pub(super) const LSM_LIST_MODULES: c_long = 461;
    pub(super) const SETXATTRAT: c_long = 463;
    pub(super) const GETXATTRAT: c_long = 464;
    pub(super) const LISTXATTRAT: c_long = 465;
    pub(super) const REMOVEXATTRAT: c_long = 466;
    pub(super) const OPEN_TREE_ATTR: c_long = 467;
}

pub(crate) const ALLOWED: &[Group] = &[
    Group {
        reason: "reading and writing open files",
        calls: calls![
            SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
            SYS_lseek SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl SYS_flock SYS_ioctl SYS_fsync SYS_fdatasync
            SYS_sync SYS_syncfs SYS_sync_file_range SYS_fallocate SYS_ftruncate SYS_truncate SYS_fadvise64 SYS_readahead
            SYS_sendfile SYS_splice SYS_tee SYS_copy_file_range
        ],
    },
    Group {
        reason: "the file tree, which is the step's own",
        calls: calls![
            SYS_openat SYS_openat2 SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_renameat SYS_renameat2 SYS_linkat SYS_symlinkat SYS_readlinkat
            SYS_faccessat SYS_faccessat2 SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_newfstatat SYS_fstat
            SYS_statx SYS_statfs SYS_fstatfs SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_umask SYS_utimensat
            SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_listxattr SYS_llistxattr
            SYS_flistxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
            SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
        ],
    },
    Group {
        reason: "changing root inside the step, for tools that build root file systems",
        calls: calls![SYS_chroot],
    },
    Group {
        reason: "memory of the process itself",
        calls: calls![
            SYS_brk SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_mincore SYS_msync SYS_mlock SYS_mlock2
            SYS_mlockall SYS_munlock SYS_munlockall SYS_remap_file_pages SYS_membarrier SYS_memfd_create SYS_mseal
            SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
        ],
    },
    Group {
        reason: "processes and threads; what new ones may be is decided below",
        calls: calls![
            SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill SYS_tgkill
            SYS_pidfd_open SYS_pidfd_send_signal SYS_getpid SYS_getppid SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid
            SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_rseq SYS_prctl SYS_getcpu
            SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam
            SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_getattr SYS_sched_setattr SYS_sched_get_priority_max
            SYS_sched_get_priority_min SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
            SYS_getrlimit SYS_setrlimit SYS_prlimit64 SYS_getrusage SYS_times SYS_sysinfo SYS_uname
        ],
    },
    Group {
        reason: "debuggers and tracers work on the step's own processes; others are not visible",
        calls: calls![SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev],
    },
    Group {
        reason: "identity: package managers change users, and all ids are the step's own",
        calls: calls![
            SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getgroups SYS_getresuid SYS_getresgid SYS_setuid SYS_setgid
            SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid SYS_setgroups SYS_capget SYS_capset
        ],
    },
    Group {
        reason: "signals among the processes of the step",
        calls: calls![
            SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend SYS_rt_sigtimedwait
            SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_signalfd4 SYS_restart_syscall
        ],
    },
    Group {
        reason: "time; setting it is denied below",
        calls: calls![
            SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_getitimer SYS_setitimer
            SYS_timer_create SYS_timer_delete SYS_timer_gettime SYS_timer_settime SYS_timer_getoverrun SYS_timerfd_create
            SYS_timerfd_gettime SYS_timerfd_settime
        ],
    },
    Group {
        reason: "waiting for descriptors, locks and time",
        calls: calls![
            SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2
            SYS_futex SYS_futex_waitv SYS_pipe2 SYS_io_setup SYS_io_submit SYS_io_cancel SYS_io_destroy SYS_io_getevents
        ],
    },
    Group {
        reason: "sockets that exist; which may be made is decided below",
        calls: calls![
            SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_shutdown SYS_getsockname SYS_getpeername
            SYS_getsockopt SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg
        ],
    },
    Group {
        reason: "messages, semaphores and shared memory of the step's own ipc namespace",
        calls: calls![
            SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl SYS_msgget SYS_msgsnd
            SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
        ],
    },
    Group {
        reason: "programs that confine themselves further",
        calls: calls![SYS_seccomp SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self],
    },
    Group { reason: "random bytes from the kernel", calls: calls![SYS_getrandom] },
    Group {
        reason: "newer forms of what is allowed above",
        calls: &[
            newer::CACHESTAT,
            newer::MAP_SHADOW_STACK,
            newer::FUTEX_WAKE,
            newer::FUTEX_WAIT,
            newer::FUTEX_REQUEUE,
            newer::SETXATTRAT,
            newer::GETXATTRAT,
            newer::LISTXATTRAT,
            newer::REMOVEXATTRAT,
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "older forms of what is allowed above, which this architecture still has",
        calls: calls![
            SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_mkdir SYS_rmdir SYS_unlink SYS_rename SYS_link
            SYS_symlink SYS_readlink SYS_chmod SYS_chown SYS_lchown SYS_mknod SYS_utime SYS_utimes SYS_futimesat SYS_getdents
            SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_inotify_init
            SYS_fork SYS_vfork SYS_getpgrp SYS_alarm SYS_pause SYS_time SYS_arch_prctl SYS_epoll_ctl_old SYS_epoll_wait_old
        ],
    },
];

/// What `runsc` may do besides, at the level of gVisor, before its processes put themselves under narrower filters of their own. All
/// of it happens in the step's user namespace.
pub(crate) const RUNSC: &[Group] = &[
    Group {
        reason: "sentry and gofer move to roots of their own",
        calls: calls![SYS_mount SYS_umount2 SYS_pivot_root],
    },
    Group {
        reason: "and to namespaces of their own",
        calls: calls![SYS_clone SYS_unshare SYS_setns SYS_sethostname SYS_setdomainname],
    },
];

pub(crate) const DENIED: &[Group] = &[
    Group {
        reason: "mounting: file system code meets bytes a tenant made, and mount points hide what is mounted by us (CVE-2022-0185, CVE-2023-0386)",
        calls: calls![
            SYS_mount SYS_umount2 SYS_pivot_root SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick SYS_move_mount SYS_open_tree
            SYS_mount_setattr SYS_swapon SYS_swapoff SYS_quotactl SYS_quotactl_fd
        ],
    },
    Group {
        reason: "newer calls for mounts; reading the mount table this way says more than /proc does",
        calls: &[newer::STATMOUNT, newer::LISTMOUNT, newer::OPEN_TREE_ATTR],
    },
    Group {
        reason: "namespaces: in one of its own a process has every capability over kernel code written for administrators (CVE-2024-1086)",
        calls: calls![SYS_unshare SYS_setns],
    },
    Group {
        reason: "keyrings are not in any namespace a step has",
        calls: calls![SYS_add_key SYS_request_key SYS_keyctl],
    },
    Group {
        reason: "large interfaces with a history of escapes",
        calls: calls![SYS_bpf SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register SYS_userfaultfd SYS_perf_event_open],
    },
    Group {
        reason: "handles that reach files or descriptors outside of what was given",
        calls: calls![SYS_open_by_handle_at SYS_name_to_handle_at SYS_pidfd_getfd SYS_kcmp SYS_process_madvise SYS_process_mrelease],
    },
    Group {
        reason: "the machine as a whole",
        calls: calls![
            SYS_reboot SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module SYS_delete_module SYS_acct SYS_syslog
            SYS_sethostname SYS_setdomainname SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime SYS_vhangup
        ],
    },
    Group {
        reason: "placement of memory among nodes is the machine's business",
        calls: calls![SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_set_mempolicy_home_node SYS_migrate_pages SYS_move_pages],
    },
    Group {
        reason: "memory the kernel hides from itself, and pages moved between processes by reference",
        calls: calls![SYS_memfd_secret SYS_vmsplice],
    },
    Group {
        reason: "marks on whole file systems, and attributes of security modules",
        calls: calls![SYS_fanotify_init SYS_fanotify_mark],
    },
    Group {
        reason: "attributes of security modules",
        calls: &[newer::LSM_GET_SELF_ATTR, newer::LSM_SET_SELF_ATTR, newer::LSM_LIST_MODULES],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        reason: "hardware access and leftovers of older kernels",
        calls: calls![
            SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib SYS_ustat SYS_sysfs SYS__sysctl SYS_lookup_dcookie SYS_nfsservctl
        ],
    },
];

pub(crate) const UNKNOWN: &[Group] = &[Group {
    reason: "its flags are in memory, where a filter cannot look; C libraries then use clone",
    calls: calls![SYS_clone3],
}];

/// Every flag of clone(2) that makes a namespace, `CLONE_NEWTIME` apart, which shares its bit with the exit signal and is refused
/// by clone itself.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

const ANY: u32 = u32::MAX;

pub(crate) const CONDITIONAL: &[Conditional] = &[
    Conditional {
        reason: "processes and threads, but no namespaces",
        call: libc::SYS_clone,
        answers: &[(&[Test { argument: 0, mask: NAMESPACE_FLAGS, value: 0 }], ALLOW)],
    },
    Conditional {
        reason: "local sockets, the internet families, and netlink for routes; every other family is kernel code a build never needs. \
                 Audit is said not to exist: the tools that add users take that for an answer, and EPERM for a reason to stop",
        call: libc::SYS_socket,
        answers: &[
            (&[Test { argument: 0, mask: ANY, value: libc::AF_UNIX.cast_unsigned() }], ALLOW),
            (&[Test { argument: 0, mask: ANY, value: libc::AF_INET.cast_unsigned() }], ALLOW),
            (&[Test { argument: 0, mask: ANY, value: libc::AF_INET6.cast_unsigned() }], ALLOW),
            (
                &[
                    Test { argument: 0, mask: ANY, value: libc::AF_NETLINK.cast_unsigned() },
                    Test { argument: 2, mask: ANY, value: libc::NETLINK_ROUTE.cast_unsigned() },
                ],
                ALLOW,
            ),
            (
                &[
                    Test { argument: 0, mask: ANY, value: libc::AF_NETLINK.cast_unsigned() },
                    Test { argument: 2, mask: ANY, value: libc::NETLINK_AUDIT.cast_unsigned() },
                ],
                UNSUPPORTED,
            ),
        ],
    },
    Conditional {
        reason: "pairs of local sockets",
        call: libc::SYS_socketpair,
        answers: &[(
            &[Test { argument: 0, mask: ANY, value: libc::AF_UNIX.cast_unsigned() }],
            ALLOW,
        )],
    },
    Conditional {
        reason: "asking for the personality, and the ones build tools set: plain, 32-bit uname, fixed addresses, and both",
        call: libc::SYS_personality,
        answers: &[
            (&[Test { argument: 0, mask: ANY, value: 0xffff_ffff }], ALLOW),
            (&[Test { argument: 0, mask: !0x0006_0008, value: 0 }], ALLOW),
        ],
    },
];
