//! What a builder could leave behind on its host: processes, control groups, mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names of the processes below `pid`, by process id, itself included.
#[must_use]
pub fn tree(pid: i32) -> BTreeMap<i32, String> {
    let parents = processes();
    let mut found = BTreeMap::new();
    let mut todo = vec![pid];
    while let Some(next) = todo.pop() {
        let Some((_, name)) = parents.get(&next) else { continue };
        found.insert(next, name.clone());
        todo.extend(
            parents.iter().filter(|(_, (parent, _))| *parent == next).map(|(child, _)| *child),
        );
    }
    found
}

/// Parent and name of every process that is alive.
fn processes() -> BTreeMap<i32, (i32, String)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name stands in parentheses and may hold anything.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        (state != "Z" && state != "X").then(|| (pid, (parent, name.to_owned())))
    })
    .collect()
}

/// Those of `pids` that still run under the same name.
#[must_use]
pub fn survivors(pids: &BTreeMap<i32, String>) -> BTreeMap<i32, String> {
    let now = processes();
    let same = |pid: &i32, name: &String| now.get(pid).is_some_and(|(_, current)| current == name);
    pids.iter()
        .filter(|(pid, name)| same(pid, name))
        .map(|(pid, name)| (*pid, name.clone()))
        .collect()
}

/// Processes whose command line holds `mark`, with their host user ids.
#[must_use]
pub fn marked(mark: &str) -> Vec<(i32, u32)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words = String::from_utf8_lossy(&line).into_owned();
        if !words.split('\0').any(|word| word == mark) {
            return None;
        }
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let owner = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        Some((pid, owner.split_whitespace().next()?.parse().ok()?))
    })
    .collect()
}

/// Control groups of the builder whose supervisor is, or was, process `pid`.
#[must_use]
pub fn groups(pid: i32) -> Vec<PathBuf> {
    // A group's name ends in the number of its supervisor and when that started.
    let number = pid.to_string();
    let its = |name: &str| {
        name.rsplit('-').next().is_some_and(|end| end.split('.').next() == Some(number.as_str()))
    };
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if directory.ends_with("cofferdam") && its(&entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
            todo.push(entry.path());
        }
    }
    found
}

/// Mounts at or below `directory` that this process sees.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn mounts(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let within =
        |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(directory));
    text.lines().filter(within).map(str::to_owned).collect()
}

/// What a builder holds at a moment: two of them are equal when nothing was left in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// Processes by name.
    pub processes: BTreeMap<String, usize>,
    /// Open descriptors of each process.
    pub descriptors: BTreeMap<i32, usize>,
    /// Mounts in the namespace of each process.
    pub mounts: BTreeMap<i32, usize>,
    /// Network namespaces that its processes live in.
    pub networks: BTreeSet<PathBuf>,
    /// Its control groups.
    pub groups: Vec<PathBuf>,
}

impl Holdings {
    /// Those of the builder whose supervisor is process `pid`.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let tree = tree(pid);
        let mut processes = BTreeMap::new();
        for name in tree.values() {
            *processes.entry(name.clone()).or_insert(0) += 1;
        }
        let each = |count: &dyn Fn(&Path) -> usize| {
            let places = tree.keys().map(|pid| (*pid, PathBuf::from(format!("/proc/{pid}"))));
            places.map(|(pid, place)| (pid, count(&place))).collect()
        };
        let networks =
            tree.keys().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok());
        let mut groups = groups(pid);
        groups.sort();
        Self {
            descriptors: each(&|place| {
                fs::read_dir(place.join("fd")).map_or(0, |entries| entries.count())
            }),
            mounts: each(&|place| {
                fs::read_to_string(place.join("mountinfo")).map_or(0, |text| text.lines().count())
            }),
            networks: networks.collect(),
            processes,
            groups,
        }
    }
}
