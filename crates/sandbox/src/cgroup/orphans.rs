//! Groups of supervisors that are gone, told by their names.
//!
//! A name ends in `-<pid>.<start>`: a number that was a supervisor's can be another process's later, the two together cannot.
//! Nothing is removed here.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest description of a process that is read; they have some fifty numbers.
const MAX_DESCRIPTION: u64 = 8 << 10;
/// Where the start is in it, counted from the name of the program on. See proc_pid_stat(5).
const START: usize = 19;

/// What is known of supervisors: the same ones have groups in every hierarchy. To be forgotten soon: they end.
#[derive(Debug, Default)]
pub(super) struct Supervisors {
    gone: HashMap<(u32, Option<u64>), bool>,
}

/// The name of a group that the calling process makes; `name` ends in its number.
pub(super) fn named(name: &str) -> String {
    match start_of("self") {
        Some(start) => format!("{name}.{start}"),
        None => name.to_owned(),
    }
}

/// Groups of supervisors that are gone, with the number that each had.
pub(super) fn orphans(family: &Path, known: &mut Supervisors) -> Vec<(u32, PathBuf)> {
    let groups = fs::read_dir(family).into_iter().flatten().flatten();
    let gone = groups.filter_map(|entry| {
        let name = entry.file_name();
        let supervisor = name.to_str()?.rsplit('-').next()?;
        // Groups of earlier programs have no start in their names.
        let (pid, start) = match supervisor.split_once('.') {
            Some((pid, start)) => (pid, Some(start.parse::<u64>().ok()?)),
            None => (supervisor, None),
        };
        let pid: u32 = pid.parse().ok()?;
        let gone = known.gone.entry((pid, start)).or_insert_with(|| is_gone(pid, start));
        gone.then(|| (pid, entry.path()))
    });
    gone.collect()
}

fn is_gone(pid: u32, start: Option<u64>) -> bool {
    let pid = pid.to_string();
    match (start_of(&pid), start) {
        (Some(found), Some(start)) => found != start,
        (Some(_), None) => false,
        (None, _) => !Path::new("/proc").join(pid).exists(),
    }
}

/// When a process started, in the kernel's ticks since the machine did.
fn start_of(process: &str) -> Option<u64> {
    let mut text = Vec::new();
    let file = fs::File::open(format!("/proc/{process}/stat")).ok()?;
    file.take(MAX_DESCRIPTION).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The program's name can hold anything, also blanks and brackets.
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(START)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_that_was_given_away_again_is_not_its_supervisor() {
        let family = tempfile::tempdir().unwrap();
        let own = std::process::id();
        let alive = named(&format!("alive-0-{own}"));
        assert!(alive.contains('.'), "{alive}");
        // No number of a process is as large as the last.
        let names = [
            alive,
            format!("earlier-0-{own}"),
            format!("reused-0-{own}.1"),
            "dead-0-4194305.7".to_owned(),
            "older-0-4194305".to_owned(),
            "strange-0-x.y".to_owned(),
            format!("strange-0-{own}.y"),
        ];
        for name in &names {
            fs::create_dir(family.path().join(name)).unwrap();
        }
        let mut found: Vec<_> = orphans(family.path(), &mut Supervisors::default())
            .into_iter()
            .map(|(pid, path)| (pid, path.file_name().unwrap().to_str().unwrap().to_owned()))
            .collect();
        found.sort();
        let mut expected = vec![
            (own, format!("reused-0-{own}.1")),
            (4_194_305, "dead-0-4194305.7".to_owned()),
            (4_194_305, "older-0-4194305".to_owned()),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }
}
