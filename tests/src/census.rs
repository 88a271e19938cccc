//! What a server, or a builder by itself, holds on its host at a moment: processes, mounts, control groups, networks, descriptors,
//! memory, disk, unfinished files.
//!
//! Everything is seen from the host, by root, and found by more than one trait, so that what a killed process left behind is
//! counted too. The product is not asked, and nothing is ever changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::leftovers;

/// Directories of a builder's store in which nothing stays: layers being made, blobs not yet in their place, mount points, what
/// waits for deletion.
const PASSING: &[&str] = &["active", "fresh", "mounts", "trash"];

/// Where hierarchies of control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// `st_blocks` counts in these units whatever the file system's block size.
const BLOCK: u64 = 512;

/// What is held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Processes by role: `server`, `supervisor`, `gate`, `init`, `builder`, `nursery`, `helper`, `machine`; those of steps by the
    /// name of their program.
    pub processes: BTreeMap<String, usize>,
    /// Open descriptors of all of them.
    pub descriptors: usize,
    /// Mounts below the data directory, and all mounts in mount namespaces of the processes.
    pub mounts: usize,
    /// Directories of control groups, counted in every hierarchy, leaves of steps included.
    pub groups: usize,
    /// Network namespaces that are not this process's own: those the processes live in, and those they hold open.
    pub networks: usize,
    /// Files and directories that are there only while something is under way.
    pub temporary: Vec<PathBuf>,
    /// What the data directory takes of the disk.
    pub disk_bytes: u64,
    /// Memory of all processes, shared pages divided among those who share them.
    pub pss_bytes: u64,
    /// The same by role.
    pub memory: BTreeMap<String, u64>,
}

impl Census {
    /// That of the server with this process id and data directory, or of the builder with this supervisor and root directory.
    /// With 0 for a process that is gone, only what it left is found.
    #[must_use]
    pub fn of(server_pid: i32, data: &Path) -> Self {
        let place = Place::of(data);
        let members = members(server_pid, data);
        let mut processes = BTreeMap::new();
        let mut memory = BTreeMap::new();
        for (pid, role) in &members {
            *processes.entry(role.clone()).or_insert(0) += 1;
            *memory.entry(role.clone()).or_insert(0) += pss(*pid);
        }
        Self {
            processes,
            descriptors: members.keys().map(|pid| descriptors(*pid).len()).sum(),
            mounts: mounts(&members, &place),
            groups: groups(&members, &place.path).len(),
            networks: networks(&members),
            temporary: temporary(&members, &place.path),
            disk_bytes: disk(&place.path),
            pss_bytes: memory.values().sum(),
            memory,
        }
    }

    /// All of it for people, a line for each kind of thing.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut text = String::new();
        let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
        for (role, count) in &self.processes {
            let memory = self.memory.get(role).copied().unwrap_or(0);
            writeln!(text, "process {role}: {count}, {}", mebibytes(memory)).unwrap();
        }
        writeln!(text, "descriptors: {}", self.descriptors).unwrap();
        writeln!(text, "mounts: {}", self.mounts).unwrap();
        writeln!(text, "control groups: {}", self.groups).unwrap();
        writeln!(text, "network namespaces: {}", self.networks).unwrap();
        writeln!(text, "memory: {}", mebibytes(self.pss_bytes)).unwrap();
        writeln!(text, "disk: {}", mebibytes(self.disk_bytes)).unwrap();
        writeln!(text, "temporary: {}", self.temporary.len()).unwrap();
        for path in &self.temporary {
            writeln!(text, "  {}", path.display()).unwrap();
        }
        text
    }
}

/// The processes, with their roles: those below `server_pid`, and those that name the data directory by their command line, their
/// directory, their control group or their mounts, with everything below them.
#[must_use]
pub fn members(server_pid: i32, data: &Path) -> BTreeMap<i32, String> {
    let table = table();
    let mut found: BTreeSet<i32> = leftovers::tree(server_pid).into_keys().collect();
    let mut search = Search::of(data);
    for (pid, entry) in &table {
        if !found.contains(pid) && search.belongs(*pid, entry) {
            found.insert(*pid);
        }
    }
    loop {
        let below = table.iter().filter(|(_, entry)| found.contains(&entry.parent));
        let more: Vec<i32> =
            below.map(|(pid, _)| *pid).filter(|pid| !found.contains(pid)).collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found
        .into_iter()
        .filter(|pid| table.contains_key(pid))
        .map(|pid| (pid, role(pid, &table)))
        .collect()
}

/// The control groups of builders of this data directory: of supervisors among `members`, and those that were made for its stores.
#[must_use]
pub fn groups(members: &BTreeMap<i32, String>, data: &Path) -> Vec<PathBuf> {
    let marks = marks(data);
    let its = |name: &str| {
        let supervisor = name.rsplit('-').next().and_then(|end| end.split('.').next());
        let supervisor = supervisor.and_then(|pid| pid.parse::<i32>().ok());
        supervisor.is_some_and(|pid| members.contains_key(&pid))
            || marks.iter().any(|mark| name.starts_with(mark))
    };
    let mut found = Vec::new();
    let mut todo = vec![(PathBuf::from(GROUPS), false)];
    while let Some((directory, ours)) = todo.pop() {
        for path in entries(&directory).into_iter().filter(|path| is_directory(path)) {
            let made = directory.ends_with("cofferdam") && its(&name_of(&path));
            if ours || made {
                found.push(path.clone());
            }
            todo.push((path, ours || made));
        }
    }
    found
}

/// The stores below a data directory, or of a builder's root.
#[must_use]
pub fn stores(data: &Path) -> Vec<PathBuf> {
    let mut roots = vec![data.to_owned()];
    for home in entries(&data.join("projects")) {
        let builder = |path: &PathBuf| name_of(path).starts_with("builder");
        roots.extend(entries(&home).into_iter().filter(builder));
    }
    roots.into_iter().map(|root| root.join("store")).filter(|store| is_directory(store)).collect()
}

/// A process as the kernel describes it.
struct Entry {
    parent: i32,
    name: String,
    words: Vec<String>,
}

impl Entry {
    /// The first argument of a process of the product; that of the builder is shared by whatever was forked from it.
    fn mode(&self) -> Option<&str> {
        let program = Path::new(self.words.first()?).file_name()?;
        if program == "cofferdam" { self.words.get(1).map(String::as_str) } else { None }
    }
}

/// Every process that is alive.
fn table() -> BTreeMap<i32, Entry> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(process.path().join("stat")).ok()?;
        // The name stands in parentheses and may hold anything.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&line).split('\0').map(str::to_owned).collect();
        Some((pid, Entry { parent, name: name.to_owned(), words }))
    })
    .collect()
}

fn role(pid: i32, table: &BTreeMap<i32, Entry>) -> String {
    let Some(entry) = table.get(&pid) else { return String::new() };
    let role = match entry.mode() {
        Some("server") => "server",
        Some("builder") => "supervisor",
        Some("__gate") => "gate",
        Some("__machine") => "machine",
        Some("__builder") => {
            // Each was forked from the one before.
            let forked = |pid: i32| table.get(&pid).filter(|one| one.mode() == Some("__builder"));
            let mut depth = 0;
            let mut at = entry.parent;
            while let Some(above) = forked(at) {
                depth += 1;
                at = above.parent;
            }
            match depth {
                0 => "init",
                1 => "builder",
                2 => "nursery",
                3 => "helper",
                _ => "starting",
            }
        }
        _ => entry.name.as_str(),
    };
    role.to_owned()
}

/// How processes of a data directory are told from others.
struct Search {
    place: Place,
    marks: Vec<String>,
    own: Option<PathBuf>,
    /// Mount namespaces that were looked at, and whether something in them names the data directory.
    namespaces: HashMap<PathBuf, bool>,
}

impl Search {
    fn of(data: &Path) -> Self {
        let place = Place::of(data);
        let marks = marks(&place.path);
        Self { place, marks, own: namespace("self", "mnt"), namespaces: HashMap::new() }
    }

    fn belongs(&mut self, pid: i32, entry: &Entry) -> bool {
        // Whoever counts may well be at home in the directory.
        if pid.unsigned_abs() == std::process::id() {
            return false;
        }
        let data = &self.place.path;
        let mut words = entry.words.iter().map(Path::new);
        if entry.mode().is_some() && words.any(|word| word.starts_with(data)) {
            return true;
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        if fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(data)) {
            return true;
        }
        let groups = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        let marked = |part: &str| self.marks.iter().any(|mark| part.starts_with(mark));
        if groups.split(['/', '\n']).any(marked) {
            return true;
        }
        let Some(mounts) = namespace(&pid.to_string(), "mnt") else { return false };
        if Some(&mounts) == self.own.as_ref() {
            return false;
        }
        if let Some(known) = self.namespaces.get(&mounts) {
            return *known;
        }
        let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        let mut lines = text.lines().filter_map(Mount::read);
        let names = lines.any(|mount| self.place.is_named_by(&mount));
        self.namespaces.insert(mounts, names);
        names
    }
}

/// A line of `mountinfo`, proc_pid_mountinfo(5).
struct Mount<'a> {
    device: &'a str,
    root: &'a Path,
    at: &'a Path,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut fields = line.split(' ').skip(2);
        let (device, root, at) = (fields.next()?, fields.next()?, fields.next()?);
        let options = fields.last().unwrap_or_default();
        Some(Self { device, root: Path::new(root), at: Path::new(at), options })
    }
}

/// A directory as descriptions of mounts name it.
struct Place {
    path: PathBuf,
    device: String,
    /// Its path within its file system.
    inside: PathBuf,
}

impl Place {
    fn of(data: &Path) -> Self {
        let path = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let above = text.lines().filter_map(Mount::read).filter(|mount| path.starts_with(mount.at));
        // Of mounts at one place the last hides the others.
        let nearest = above.max_by_key(|mount| mount.at.components().count());
        let (device, inside) = match nearest {
            Some(mount) => {
                let below = path.strip_prefix(mount.at).unwrap_or(&path);
                (mount.device.to_owned(), mount.root.join(below))
            }
            None => (String::new(), path.clone()),
        };
        Self { path, device, inside }
    }

    fn is_named_by(&self, mount: &Mount<'_>) -> bool {
        let below = mount.at != self.path && mount.at.starts_with(&self.path);
        // The whole of a file system is no part of a directory.
        let part = mount.device == self.device
            && mount.root != Path::new("/")
            && mount.root.starts_with(&self.inside);
        below || part || self.path.to_str().is_some_and(|path| mount.options.contains(path))
    }
}

fn mounts(members: &BTreeMap<i32, String>, place: &Place) -> usize {
    let own = namespace("self", "mnt");
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut count =
        text.lines().filter_map(Mount::read).filter(|mount| place.is_named_by(mount)).count();
    let mut seen = BTreeSet::new();
    for pid in members.keys() {
        let Some(namespace) = namespace(&pid.to_string(), "mnt") else { continue };
        if Some(&namespace) != own.as_ref() && seen.insert(namespace) {
            let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            count += text.lines().count();
        }
    }
    count
}

fn networks(members: &BTreeMap<i32, String>) -> usize {
    let own = namespace("self", "net");
    let mut found = BTreeSet::new();
    for pid in members.keys() {
        found.extend(namespace(&pid.to_string(), "net"));
        let held = descriptors(*pid).into_iter();
        found.extend(held.filter(|target| target.to_string_lossy().starts_with("net:[")));
    }
    found.into_iter().filter(|namespace| Some(namespace) != own.as_ref()).count()
}

fn namespace(process: &str, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()
}

/// What a process's descriptors lead to.
fn descriptors(pid: i32) -> Vec<PathBuf> {
    let links = entries(Path::new(&format!("/proc/{pid}/fd")));
    links.into_iter().filter_map(|link| fs::read_link(link).ok()).collect()
}

/// Memory of a process in bytes; 0 for one that has ended.
fn pss(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// What is there only while something is under way. Downloads that were broken off are not: a builder keeps them for a day, to
/// continue them.
fn temporary(members: &BTreeMap<i32, String>, data: &Path) -> Vec<PathBuf> {
    let mut found = entries(&data.join("trash"));
    for project in entries(&data.join("registry")) {
        found.extend(entries(&project.join("uploads")));
    }
    let used: Vec<PathBuf> =
        members.keys().filter_map(|pid| fs::read_link(format!("/proc/{pid}/cwd")).ok()).collect();
    for home in entries(&data.join("projects")) {
        let left = |path: &PathBuf| name_of(path).starts_with("run") && !used.contains(path);
        found.extend(entries(&home).into_iter().filter(left));
    }
    for store in stores(data) {
        for part in PASSING {
            found.extend(entries(&store.join(part)));
        }
        let unnamed = |path: &PathBuf| name_of(path).starts_with("tmp-");
        found.extend(entries(&store.join("ingest")).into_iter().filter(unnamed));
        let root = store.parent().unwrap_or(&store);
        let both = entries(&store).into_iter().chain(entries(root));
        found.extend(both.filter(|path| is_part(path)));
    }
    found.extend(entries(data).into_iter().filter(|path| is_part(path)));
    found.sort();
    found.dedup();
    found
}

/// Whether this is something in the making, by its name.
fn is_part(path: &Path) -> bool {
    let name = name_of(path);
    name.ends_with(".part") || name.ends_with(".partial") || name == "journal-next"
}

/// What a directory takes of the disk; files with several names once.
fn disk(directory: &Path) -> u64 {
    let mut bytes = 0;
    let mut seen = HashSet::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
            bytes += metadata.blocks() * BLOCK;
        }
        if metadata.is_dir() {
            todo.extend(entries(&path));
        }
    }
    bytes
}

/// What names of control groups begin with that were made for the stores below a data directory: a number that is the same in
/// every version of the program (FNV-1a of the store's path).
fn marks(data: &Path) -> Vec<String> {
    let number = |path: &PathBuf| {
        path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    stores(data).iter().map(|store| format!("{:016x}-", number(store))).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).collect()
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process::Process;

    #[test]
    fn mounts_name_a_directory_by_place_device_or_options() {
        let place = Place {
            path: PathBuf::from("/tmp/x/data"),
            device: "8:1".to_owned(),
            inside: PathBuf::from("/x/data"),
        };
        let named = |line: &str| place.is_named_by(&Mount::read(line).unwrap());
        assert!(named("1 2 0:5 / /tmp/x/data/projects/p rw - tmpfs none rw"));
        assert!(named("1 2 8:1 /x/data/projects/p/builder/store /store rw - ext4 /dev/sda1 rw"));
        assert!(named("1 2 0:9 / /m rw - overlay none rw,upperdir=/tmp/x/data/u"));
        assert!(!named("1 2 8:1 / / rw - ext4 /dev/sda1 rw"));
        assert!(!named("1 2 8:2 /x/data /m rw - ext4 /dev/sdb1 rw"));
        assert!(!named("1 2 8:1 /x/database /m rw - ext4 /dev/sda1 rw"));
    }

    #[test]
    fn what_is_left_in_a_directory_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap();
        assert_eq!(Census::of(0, &data).processes, BTreeMap::new());
        fs::create_dir_all(data.join("projects/p/builder/store/active/1")).unwrap();
        fs::create_dir_all(data.join("projects/p/builder/store/ingest")).unwrap();
        fs::create_dir_all(data.join("registry/p/uploads")).unwrap();
        for file in ["registry/p/uploads/u", "projects/p/builder/store/ingest/tmp-1"] {
            fs::write(data.join(file), "half").unwrap();
        }
        fs::write(data.join("projects/p/builder/store/ingest/0123"), "to be continued").unwrap();
        let mut command = Command::new("sleep");
        command.arg("60").current_dir(&data);
        let sleep = Process::start(command);
        let census = Census::of(0, &data);
        assert_eq!(census.processes, BTreeMap::from([("sleep".to_owned(), 1)]));
        assert!(census.pss_bytes > 0 && census.disk_bytes > 0, "{}", census.lines());
        let expected = [
            "projects/p/builder/store/active/1",
            "projects/p/builder/store/ingest/tmp-1",
            "registry/p/uploads/u",
        ];
        assert_eq!(census.temporary, expected.map(|path| data.join(path)));
        sleep.kill();
        assert_eq!(Census::of(0, &data).processes, BTreeMap::new());
    }
}
