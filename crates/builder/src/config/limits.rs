//! `[limits]`, our own: what one step, one build and all builds of a builder may use.
//!
//! A value that is absent means the default, which is no limit except for processes and logs; 0 means no limit. Whoever runs the
//! builder and whoever owns the project may both set limits: the smaller of two holds, so neither can widen the other's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::{DiskSpace, Span};

/// Output of one step that is kept: logs of large compilations are smaller, and a hundred steps that print all they may are about
/// what a builder can hold in memory.
const STEP_LOG: u64 = 16 << 20;
/// Output of all steps of one build that is kept.
const BUILD_LOG: u64 = 256 << 20;
/// Processes and threads of one step: more than parallel compilers start, and few enough that a step which forks without end
/// leaves the machine usable.
const STEP_PIDS: u64 = 4096;

/// `[limits]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Of each step.
    pub step: StepLimits,
    /// Of each build.
    pub build: BuildLimits,
    /// Most builds that run at once; others wait for their turn.
    pub builds: Option<usize>,
    /// Limits that hold as well: the operator's, where these are a project's.
    pub within: Option<Box<Self>>,
}

/// `[limits.step]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StepLimits {
    /// Processors, such as `2` or `1.5`.
    pub cpus: Option<f64>,
    /// Memory; a share is of the machine's.
    pub memory: Option<DiskSpace>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Files that one process may have open.
    pub open_files: Option<u64>,
    /// Bytes that the step may write to its root, its writable mounts and its cache mounts; a share is of the builder's disk.
    pub disk: Option<DiskSpace>,
    /// Wall clock, from the start of the step's process.
    pub time: Option<Span>,
    /// Output that is kept.
    pub log: Option<DiskSpace>,
}

/// `[limits.build]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildLimits {
    /// Wall clock, from the build's first request.
    pub time: Option<Span>,
    /// Steps that run at once.
    pub steps: Option<usize>,
    /// Output of all steps that is kept.
    pub log: Option<DiskSpace>,
}

/// The smaller of two limits; 0 and absent are none.
fn tighter<T: PartialOrd + Default>(one: Option<T>, other: Option<T>) -> Option<T> {
    let set = |value: Option<T>| value.filter(|value| *value > T::default());
    match (set(one), set(other)) {
        (Some(one), Some(other)) => Some(if other < one { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// As bytes of `total`.
fn bytes(space: Option<DiskSpace>, total: u64) -> Option<u64> {
    space.map(|space| space.bytes(total))
}

impl Limits {
    /// What `pick` finds here and in those that hold as well, the smallest.
    fn tightest<T: PartialOrd + Default>(&self, pick: &impl Fn(&Self) -> Option<T>) -> Option<T> {
        tighter(pick(self), self.within.as_ref().and_then(|outer| outer.tightest(pick)))
    }

    /// Whether anybody set what `pick` finds, be it to no limit.
    fn is_set<T>(&self, pick: &impl Fn(&Self) -> Option<T>) -> bool {
        pick(self).is_some() || self.within.as_ref().is_some_and(|outer| outer.is_set(pick))
    }

    /// The smallest of those that were set, or `default` where nobody said anything.
    fn or_default(&self, default: u64, pick: impl Fn(&Self) -> Option<u64>) -> Option<u64> {
        if self.is_set(&pick) { self.tightest(&pick) } else { Some(default) }
    }

    /// Processors of a step.
    #[must_use]
    pub fn step_cpus(&self) -> Option<f64> {
        self.tightest(&|limits| limits.step.cpus)
    }

    /// Bytes of memory of a step, on a machine with `total`.
    #[must_use]
    pub fn step_memory(&self, total: u64) -> Option<u64> {
        self.tightest(&|limits| bytes(limits.step.memory, total))
    }

    /// Processes of a step, if anybody set a limit.
    #[must_use]
    pub fn step_pids(&self) -> Option<u64> {
        self.tightest(&|limits| limits.step.pids)
    }

    /// Processes of a step when nobody set a limit, if that is so.
    #[must_use]
    pub fn default_step_pids(&self) -> Option<u64> {
        (!self.is_set(&|limits| limits.step.pids)).then_some(STEP_PIDS)
    }

    /// Open files of one process of a step.
    #[must_use]
    pub fn step_open_files(&self) -> Option<u64> {
        self.tightest(&|limits| limits.step.open_files)
    }

    /// Bytes that a step may write, on a disk of `total`.
    #[must_use]
    pub fn step_disk(&self, total: u64) -> Option<u64> {
        self.tightest(&|limits| bytes(limits.step.disk, total))
    }

    /// How long a step may take.
    #[must_use]
    pub fn step_time(&self) -> Option<Duration> {
        self.tightest(&|limits| limits.step.time.map(Span::duration))
    }

    /// Output of a step that is kept.
    #[must_use]
    pub fn step_log(&self) -> Option<u64> {
        self.or_default(STEP_LOG, |limits| bytes(limits.step.log, 0))
    }

    /// How long a build may take.
    #[must_use]
    pub fn build_time(&self) -> Option<Duration> {
        self.tightest(&|limits| limits.build.time.map(Span::duration))
    }

    /// Steps of a build that run at once.
    #[must_use]
    pub fn build_steps(&self) -> Option<usize> {
        self.tightest(&|limits| limits.build.steps)
    }

    /// Output of a build that is kept.
    #[must_use]
    pub fn build_log(&self) -> Option<u64> {
        self.or_default(BUILD_LOG, |limits| bytes(limits.build.log, 0))
    }

    /// Builds that run at once.
    #[must_use]
    pub fn most_builds(&self) -> Option<usize> {
        self.tightest(&|limits| limits.builds)
    }

    /// What makes no sense in these limits.
    #[must_use]
    pub fn nonsense(&self) -> Option<String> {
        let cpus = self.step.cpus.filter(|cpus| *cpus != 0.0);
        if let Some(cpus) = cpus.filter(|cpus| !(0.01..=1e6).contains(cpus)) {
            return Some(format!("[limits] step.cpus: {cpus} is no number of processors"));
        }
        let share = |space: Option<DiskSpace>| matches!(space, Some(DiskSpace::Percent(_)));
        if share(self.step.log) || share(self.build.log) {
            return Some("[limits] log: use a size, there is nothing to take a share of".into());
        }
        self.within.as_ref().and_then(|outer| outer.nonsense())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn limits(text: &str) -> Limits {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let none = Limits::default();
        assert_eq!((none.step_pids(), none.default_step_pids()), (None, Some(STEP_PIDS)));
        assert_eq!((none.step_log(), none.build_log()), (Some(STEP_LOG), Some(BUILD_LOG)));
        assert_eq!((none.step_disk(100), none.step_time(), none.build_steps()), (None, None, None));
    }

    #[test]
    fn values_are_read_and_zero_is_no_limit() {
        let some = limits(
            "builds = 3\nstep.cpus = 1.5\nstep.memory = \"50%\"\nstep.pids = 0\nstep.openFiles = 100\n\
             step.disk = \"1MB\"\nstep.time = \"2m\"\nstep.log = 0\nbuild.time = 5\nbuild.steps = 2\nbuild.log = 10",
        );
        assert_eq!((some.step_cpus(), some.step_memory(1000)), (Some(1.5), Some(500)));
        assert_eq!((some.step_pids(), some.default_step_pids()), (None, None));
        assert_eq!((some.step_open_files(), some.step_disk(0)), (Some(100), Some(1_000_000)));
        assert_eq!(some.step_time(), Some(Duration::from_secs(120)));
        assert_eq!((some.step_log(), some.build_log()), (None, Some(10)));
        assert_eq!((some.build_steps(), some.most_builds()), (Some(2), Some(3)));
        assert!(
            toml::from_str::<Limits>("step.cpu = 1").is_err(),
            "a misspelt limit limits nothing"
        );
    }

    #[test]
    fn the_smaller_of_two_limits_holds() {
        let both = limits(
            "step.pids = 50\nstep.time = 0\nbuild.steps = 9\n\
             [within]\nstep.pids = 20\nstep.time = 7\nstep.disk = 5\nbuild.steps = 10\nstep.log = 3",
        );
        assert_eq!((both.step_pids(), both.step_disk(0)), (Some(20), Some(5)));
        assert_eq!((both.step_time(), both.build_steps()), (Some(Duration::from_secs(7)), Some(9)));
        assert_eq!(both.step_log(), Some(3));
    }

    #[test]
    fn nonsense_is_named() {
        assert!(limits("step.cpus = -1").nonsense().unwrap().contains("cpus"));
        assert!(limits("within.build.log = \"5%\"").nonsense().is_some());
        assert_eq!(limits("step.cpus = 0.5").nonsense(), None);
    }
}
