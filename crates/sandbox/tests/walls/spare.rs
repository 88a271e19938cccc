//! Copies of a supervisor: what they know of it, how they end, and when one may not become a builder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, Output};

use cofferdam_sandbox::{Spare, Twin, enter};

use crate::inside;
use crate::outside::hold;

/// Environment variable of a supervisor that no builder is to know.
const HIDDEN: &str = "WALLS_HIDDEN";

/// What the program of a builder can be on: a mount of its own, or whatever it is on for everybody.
const READ_ONLY: &str = "read-only";
const AS_IT_IS: &str = "as it is";

/// A copy of this process that plays the builder's role when it is told to.
pub(crate) fn spare() -> Spare {
    match Spare::make(1).unwrap() {
        Twin::Maker(mut spares) => spares.pop().unwrap(),
        Twin::Copy(task) => {
            let args: Vec<String> =
                task.args.into_iter().map(|arg| arg.into_string().unwrap()).collect();
            let entered = enter().unwrap().unwrap();
            // Nothing of the stack that this copy shares with its maker is to be dropped, nor is its maker's work to go on here.
            let ended = catch_unwind(AssertUnwindSafe(|| inside::main(entered, &args)));
            std::process::exit(i32::from(!matches!(ended, Ok(ExitCode::SUCCESS))))
        }
    }
}

/// Runs a role of this program, or of a copy of it, with descriptor 7 on `file`.
fn run(program: &Path, role: &str, store: &Path, file: &Path, hidden: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec 7<"$3"; exec "$0" "$1" "$2""#]);
    command.args([program.as_os_str(), role.as_ref(), store.as_os_str(), file.as_os_str()]);
    command.env(HIDDEN, hidden).output().unwrap()
}

fn said(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn a_copy_knows_nothing_of_its_maker() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file-of-the-maker");
    fs::write(&file, "secret").unwrap();
    // Made up here, so that it is in no program.
    let mut hidden = [0; 16];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut hidden).unwrap();
    let hidden: String = hidden.iter().map(|byte| format!("{byte:02x}")).collect();
    let program = std::env::current_exe().unwrap();
    let lines = said(&run(&program, "knowing", &dir.path().join("store"), &file, &hidden));
    let of = |who: &str| lines.iter().filter(|line| line.starts_with(who)).count();
    assert!(of("maker ") == 1 && of("copy ") >= 2, "{lines:#?}");
    for line in lines.iter().filter(|line| !line.starts_with("spare ")) {
        let maker = line.starts_with("maker ");
        assert_eq!(line.contains("knows"), maker, "control, or what a copy knows: {line}");
        assert_eq!(line.contains("holds"), maker, "likewise: {line}");
        assert_eq!(line.ends_with(" hold"), !maker, "arguments: {line}");
    }
    // One that nobody told anything ended with its maker.
    let left = lines.iter().find_map(|line| line.strip_prefix("spare ")).unwrap();
    let left = Path::new("/proc").join(left);
    for _ in 0..2000 {
        if !left.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{} is still there", left.display());
}

/// What the maker and its copies know: their memory, their descriptors, their arguments.
pub(crate) fn knowing(store: &str) -> ExitCode {
    let (supervised, _) = hold(Path::new(store));
    let hidden = std::env::var(HIDDEN).unwrap();
    let describe = |who: &str, pid: i32| {
        let knows = if remembers(pid, hidden.as_bytes()) { " knows" } else { "" };
        let holds = if has_open(pid, "file-of-the-maker") { " holds" } else { "" };
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let words: Vec<&str> = line.split('\0').filter(|word| !word.is_empty()).collect();
        println!("{who} {pid}{knows}{holds} {}", words.join(" "));
    };
    describe("maker", i32::try_from(std::process::id()).unwrap());
    let mut copies = vec![supervised.pid()];
    while let Some(pid) = copies.pop() {
        describe("copy", pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid_for_children")).ok();
        // Steps have programs of their own.
        let children = children.split_whitespace().map(|child| child.parse::<i32>().unwrap());
        copies.extend(children.filter(|child| namespace(*child) == namespace(pid)));
    }
    println!("spare {}", spare().pid());
    // As a supervisor ends that was killed: nothing is dropped.
    std::process::exit(0)
}

/// Whether these bytes are anywhere in the memory of a process that it can write to.
fn remembers(pid: i32, bytes: &[u8]) -> bool {
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
        let mut content = vec![0; usize::try_from((to - from).min(64 << 20)).unwrap()];
        // The kernel's own pages cannot be read so.
        memory.read_exact_at(&mut content, from).is_ok()
            && content.windows(bytes.len()).any(|window| window == bytes)
    })
}

fn has_open(pid: i32, name: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.ends_with(name))
}

/// A builder runs from the file of its supervisor as it is only where none of its ids can write to that.
pub(crate) fn a_program_that_others_can_write_to_is_executed_from_a_mount() {
    let dir = tempfile::tempdir().unwrap();
    let (program, store) = (dir.path().join("program"), dir.path().join("store"));
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let from = |mode: u32, owner: u32| {
        std::os::unix::fs::chown(&program, Some(owner), None).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
        said(&run(&program, "from", &store, &program, "")).concat()
    };
    assert_eq!(from(0o755, 0), AS_IT_IS, "control: a program that only root can write to");
    assert_eq!(from(0o757, 0), READ_ONLY, "everybody");
    assert_eq!(from(0o775, 0), READ_ONLY, "a group");
    let base = fs::metadata(&store).unwrap().uid();
    assert_eq!(from(0o755, base + 65_536), READ_ONLY, "the builder's ids");
    assert_eq!(from(0o755, 1), AS_IT_IS, "somebody else's");
}

/// Which mount the program of a builder is on.
pub(crate) fn from(store: &str) -> ExitCode {
    let (supervised, _) = hold(Path::new(store));
    let program = format!("/proc/{}/exe", supervised.pid());
    let flags = rustix::fs::statvfs(program).unwrap().f_flag;
    let is_read_only = flags.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    println!("{}", if is_read_only { READ_ONLY } else { AS_IT_IS });
    ExitCode::SUCCESS
}
