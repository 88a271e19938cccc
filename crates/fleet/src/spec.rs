//! What a project may use, and what of it this machine has.

use std::io::Read;

use cofferdam_sandbox::Isolation;
use toml::Table;

/// First host id of slot 0.
const FIRST_ID: u32 = 1 << 28;
/// Host ids of one builder.
const IDS: u32 = 131_072;
/// Slots there are. Each has a range of ids for every level of isolation; the last of them ends below 2^32.
const SLOTS: u32 = 10_000;
/// Longest description of the machine's memory that is read; it has some fifty lines.
const MAX_MEMINFO: u64 = 64 << 10;

/// Whose builder: its project's id, and how it is isolated.
pub(crate) type Key = (String, Isolation);

/// A project as its builder is started.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectSpec {
    /// The project's id: lower-case letters, digits and dashes.
    pub project: String,
    /// Number of the project's id ranges.
    pub slot: u32,
    /// How the builder is isolated. A project has a builder, with ids and a store of its own, for each level that is asked for.
    pub isolation: Isolation,
    /// What the project's builds may reach, as far as the configuration of all builders allows it: a table with `mode`, `allow`
    /// and `deny`. Nothing when the project says nothing.
    pub network: Option<Table>,
    /// What its builds and steps may use, as far as the configuration of all builders allows it, with the keys of `[limits]`.
    pub limits: Option<Table>,
    /// What the builder and its steps may use together, before it is clamped to the machine.
    pub resources: Resources,
    /// Cache that is kept, in GB; 0 has no limit.
    pub keep_gb: u32,
    /// Days that unused cache is kept; 0 has no limit.
    pub keep_days: u32,
}

/// Processors and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// Resources that were asked for and are more than the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clamped {
    /// What was asked for.
    pub asked: Resources,
    /// What is given instead.
    pub given: Resources,
}

impl ProjectSpec {
    /// Whose builder this is.
    pub(crate) fn key(&self) -> Key {
        (self.project.clone(), self.isolation)
    }

    /// First host id of the project's builder. Builders of different levels share no ids: who escapes from the weaker one must
    /// not own the store of the stronger one.
    pub(crate) fn first_id(&self) -> Option<u32> {
        let level = Isolation::ALL.iter().position(|level| *level == self.isolation)?;
        let range = u32::try_from(level).ok()?.checked_mul(SLOTS)?.checked_add(self.slot)?;
        let offset = range.checked_mul(IDS).filter(|_| self.slot < SLOTS)?;
        FIRST_ID.checked_add(offset)
    }
}

impl Resources {
    /// What this machine has; unlimited where it does not say.
    pub(crate) fn of_this_machine() -> Self {
        let cpus = std::thread::available_parallelism()
            .map_or(u32::MAX, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
        Self { cpus, memory: total_memory().unwrap_or(u64::MAX) }
    }

    /// These resources, as far as `machine` has them.
    pub(crate) fn within(self, machine: Self) -> (Self, Option<Clamped>) {
        let given =
            Self { cpus: self.cpus.min(machine.cpus), memory: self.memory.min(machine.memory) };
        (given, (given != self).then_some(Clamped { asked: self, given }))
    }
}

fn total_memory() -> Option<u64> {
    let mut text = String::new();
    std::fs::File::open("/proc/meminfo").ok()?.take(MAX_MEMINFO).read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn slots_never_overlap_and_end() {
        let at = |slot, isolation| ProjectSpec {
            project: "p".into(),
            slot,
            isolation,
            network: None,
            limits: None,
            resources: Resources { cpus: 1, memory: 1 },
            keep_gb: 0,
            keep_days: 0,
        };
        let spec = |slot| at(slot, Isolation::Namespaces);
        assert_eq!(spec(0).first_id(), Some(268_435_456));
        assert_eq!(spec(1).first_id(), Some(268_435_456 + 131_072));
        assert_eq!(spec(SLOTS).first_id(), None);
        assert_eq!(spec(u32::MAX).first_id(), None);
        let mut end = FIRST_ID;
        for level in Isolation::ALL {
            assert!(at(0, level).first_id().unwrap() >= end, "levels share ids");
            end = at(SLOTS - 1, level).first_id().unwrap().checked_add(IDS).unwrap();
        }
    }

    #[test]
    fn what_the_machine_lacks_is_not_given() {
        let machine = Resources { cpus: 2, memory: 8 << 30 };
        let small = Resources { cpus: 1, memory: 1 << 30 };
        assert_eq!(small.within(machine), (small, None));
        let large = Resources { cpus: 16, memory: 4 << 30 };
        let given = Resources { cpus: 2, memory: 4 << 30 };
        assert_eq!(large.within(machine), (given, Some(Clamped { asked: large, given })));
        let this = Resources::of_this_machine();
        assert!(this.cpus >= 1 && this.memory > 1 << 20 && this.memory < u64::MAX);
    }
}
