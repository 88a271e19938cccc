//! The system-call filter of a step, seccomp(2).
//!
//! The profile is data in [`crate::profile`]; this module turns it into a classic BPF program once, before the helpers are made, and
//! installs it. The program is a binary search over the call number: the kernel runs a program once per call number while
//! installing it, to remember which calls are always allowed, so a list of four hundred comparisons would cost every start of a
//! step several hundred microseconds.
//!
//! Calls are answered in one of three ways. Allowed. `EPERM` for what exists and is denied. `ENOSYS` for everything the profile
//! does not know, so that C libraries fall back to older calls, and for `clone3`, whose flags a filter cannot read. Other entry
//! points of the processor (32-bit calls, x32) get `ENOSYS` too.

use std::collections::BTreeMap;

use libc::sock_filter;
use rustix::io::Errno;

use crate::namespaces::last_errno;
use crate::profile;

pub(crate) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
pub(crate) const UNSUPPORTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT.cast_unsigned();
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// `AUDIT_ARCH_*` of linux/audit.h for the machine this is built for.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in `struct seccomp_data` of linux/seccomp.h.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCHITECTURE: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What happens to one call.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Fixed(u32),
    /// The answer of the first condition that holds, else `EPERM`.
    When(&'static [(Condition, u32)]),
}

/// Tests on the low halves of arguments, all of which must hold.
pub(crate) type Condition = &'static [Test];

/// `argument & mask == value`, on the low 32 bits. None of the calls this is used for looks at more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) argument: u32,
    pub(crate) mask: u32,
    pub(crate) value: u32,
}

/// A program ready to be installed.
#[derive(Debug)]
pub(crate) struct Filter(Vec<sock_filter>);

impl Filter {
    /// Compiles the profile, with `more` allowed whatever else it says of it.
    pub(crate) fn compile(more: &[profile::Group]) -> Self {
        let verdicts = verdicts(more);
        let mut ranges: Vec<(u32, Verdict)> = Vec::new();
        let mut next = 0;
        let mut push = |from: u32, verdict: Verdict| {
            if ranges.last().map(|(_, last)| last) != Some(&verdict) {
                ranges.push((from, verdict));
            }
        };
        for (number, verdict) in verdicts {
            if number > next {
                push(next, Verdict::Fixed(UNKNOWN));
            }
            push(number, verdict);
            next = number + 1;
        }
        push(next, Verdict::Fixed(UNKNOWN));

        let mut program = vec![
            statement(LOAD, OFFSET_ARCHITECTURE),
            branch(EQUAL, ARCHITECTURE, 1, 0),
            statement(RETURN, UNKNOWN),
            statement(LOAD, OFFSET_NUMBER),
        ];
        program.extend(search(&ranges));
        Self(program)
    }

    /// Puts the calling thread and all its descendants under the filter. Without `no_new_privs` this needs `CAP_SYS_ADMIN` in the
    /// caller's user namespace.
    pub(crate) fn install(&self) -> Result<(), Errno> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(|_| Errno::INVAL)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: the program outlives the call, which copies it and changes nothing.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }
}

/// Every call the profile names, in order of number.
fn verdicts(more: &[profile::Group]) -> BTreeMap<u32, Verdict> {
    let mut verdicts = BTreeMap::new();
    let add = |verdicts: &mut BTreeMap<u32, Verdict>, groups: &[profile::Group], verdict: u32| {
        for call in groups.iter().flat_map(|group| group.calls) {
            if let Ok(number) = u32::try_from(*call) {
                verdicts.insert(number, Verdict::Fixed(verdict));
            }
        }
    };
    add(&mut verdicts, profile::ALLOWED, ALLOW);
    add(&mut verdicts, profile::DENIED, DENY);
    add(&mut verdicts, profile::UNKNOWN, UNKNOWN);
    for conditional in profile::CONDITIONAL {
        if let Ok(number) = u32::try_from(conditional.call) {
            verdicts.insert(number, Verdict::When(conditional.answers));
        }
    }
    add(&mut verdicts, more, ALLOW);
    verdicts
}

/// A search for the range the loaded number is in, each given by where it starts.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![statement(RETURN, UNKNOWN)],
        [(_, verdict)] => answer(verdict),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (split, low, high) = (high[0].0, search(low), search(high));
            let mut program = match u8::try_from(low.len()) {
                Ok(over) => vec![branch(AT_LEAST, split, over, 0)],
                // Conditional jumps reach 255 instructions; a plain one reaches anything.
                Err(_) => vec![
                    branch(AT_LEAST, split, 0, 1),
                    statement(JUMP, u32::try_from(low.len()).unwrap_or(u32::MAX)),
                ],
            };
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

fn answer(verdict: &Verdict) -> Vec<sock_filter> {
    match verdict {
        Verdict::Fixed(result) => vec![statement(RETURN, *result)],
        Verdict::When(conditions) => {
            let mut program = Vec::new();
            for (condition, result) in *conditions {
                let mut left = condition.len();
                for test in *condition {
                    left -= 1;
                    program.push(statement(LOAD, OFFSET_ARGUMENTS + 8 * test.argument));
                    program.push(statement(AND, test.mask));
                    // On failure: over the remaining tests of this condition and its return.
                    let over = u8::try_from(3 * left + 1).unwrap_or(u8::MAX);
                    program.push(branch(EQUAL, test.value, 0, over));
                }
                program.push(statement(RETURN, *result));
            }
            program.push(statement(RETURN, DENY));
            program
        }
    }
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What the kernel would do with a call, by running the program.
    fn run(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(architecture.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        for argument in arguments {
            data.extend(argument.to_ne_bytes());
        }
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let step = filter.0[at];
            at += 1;
            let pick = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
            match step.code {
                LOAD => {
                    let offset = step.k as usize;
                    accumulator = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                AND => accumulator &= step.k,
                EQUAL => at += pick(accumulator == step.k),
                AT_LEAST => at += pick(accumulator >= step.k),
                JUMP => at += step.k as usize,
                RETURN => return step.k,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    fn call(number: libc::c_long, arguments: [u64; 6]) -> u32 {
        run(&Filter::compile(&[]), ARCHITECTURE, u32::try_from(number).unwrap(), arguments)
    }

    #[test]
    fn every_number_gets_the_verdict_of_the_profile() {
        let filter = Filter::compile(&[]);
        let verdicts = verdicts(&[]);
        for number in 0..1024 {
            let expected = match verdicts.get(&number) {
                None => UNKNOWN,
                Some(Verdict::Fixed(result)) => *result,
                Some(Verdict::When(_)) => continue,
            };
            assert_eq!(run(&filter, ARCHITECTURE, number, [0; 6]), expected, "call {number}");
        }
    }

    #[test]
    fn other_entry_points_are_unknown() {
        let filter = Filter::compile(&[]);
        assert_eq!(run(&filter, 0x4000_0003, 1, [0; 6]), UNKNOWN);
        for number in 0..1024 {
            assert_eq!(run(&filter, ARCHITECTURE, 0x4000_0000 | number, [0; 6]), UNKNOWN);
        }
    }

    #[test]
    fn clone_makes_processes_and_threads_but_no_namespaces() {
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
        assert_eq!(call(libc::SYS_clone, [thread, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]), ALLOW);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID]
        {
            assert_eq!(call(libc::SYS_clone, [thread | flag as u64, 0, 0, 0, 0, 0]), DENY);
        }
        assert_eq!(call(libc::SYS_clone3, [0; 6]), UNKNOWN);
    }

    #[test]
    fn sockets_are_of_four_families() {
        let socket = |family: i32, protocol: u64| {
            call(libc::SYS_socket, [family as u64, 1, protocol, 0, 0, 0])
        };
        assert_eq!(socket(libc::AF_UNIX, 0), ALLOW);
        assert_eq!(socket(libc::AF_INET, 17), ALLOW);
        assert_eq!(socket(libc::AF_INET6, 6), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, 0), ALLOW);
        for protocol in [6, 12, 15, 16] {
            assert_eq!(socket(libc::AF_NETLINK, protocol), DENY);
        }
        assert_eq!(socket(libc::AF_NETLINK, 9), UNSUPPORTED);
        for family in [libc::AF_PACKET, libc::AF_ALG, libc::AF_VSOCK, libc::AF_KEY, 33] {
            assert_eq!(socket(family, 0), DENY);
        }
    }

    #[test]
    fn runsc_may_move_to_a_root_of_its_own_and_nothing_else() {
        let filter = Filter::compile(profile::RUNSC);
        let user = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
        let run =
            |number: libc::c_long| run(&filter, ARCHITECTURE, u32::try_from(number).unwrap(), user);
        for number in [libc::SYS_mount, libc::SYS_pivot_root, libc::SYS_clone, libc::SYS_read] {
            assert_eq!(run(number), ALLOW, "call {number}");
        }
        let denied = [libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_fsopen, libc::SYS_io_uring_setup];
        for number in denied.into_iter().chain([libc::SYS_userfaultfd, libc::SYS_open_by_handle_at])
        {
            assert_eq!(run(number), DENY, "call {number}");
        }
    }

    #[test]
    fn no_call_is_in_two_lists() {
        let mut seen = std::collections::HashSet::new();
        let lists = [profile::ALLOWED, profile::DENIED, profile::UNKNOWN];
        let fixed = lists.into_iter().flatten().flat_map(|group| group.calls.iter().copied());
        for number in fixed.chain(profile::CONDITIONAL.iter().map(|conditional| conditional.call)) {
            assert!(seen.insert(number), "call {number} is listed twice");
        }
    }

    #[test]
    fn every_group_says_why() {
        let lists = [profile::ALLOWED, profile::DENIED, profile::UNKNOWN, profile::RUNSC];
        for group in lists.into_iter().flatten() {
            assert!(group.reason.len() > 10);
        }
        assert!(profile::CONDITIONAL.iter().all(|conditional| conditional.reason.len() > 10));
        assert!(profile::CAPABILITIES.iter().all(|capability| capability.reason.len() > 10));
    }
}
