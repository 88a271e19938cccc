//! Keeps the caches of all projects within what each asked for, and notes what projects take of the disk.
//!
//! A builder that runs keeps its own cache within bounds all the time. This is for what no builder sees: projects that build
//! nothing, whose caches grow old all the same, and the caches of several levels of isolation, which share one bound. Where they
//! exceed it, the level that was used longest ago gives first, down to what the others leave it; one whose builder runs gives last.
//! Nothing that a build uses is removed, and no build waits for this: see [`cofferdam_fleet::Fleet::collect`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cofferdam_fleet::{Collected, FleetError, Isolation, Keep, ProjectSpec, Root};
use cofferdam_records::{CachePolicy, Project, ProjectState, RecordsError};

use super::Builds;
use super::endpoint::spec;
use super::storage::{CACHE, LOGS, REGISTRY, total};
use crate::walls::WallsError;

/// How long after its start a server looks at caches for the first time: not while clients come back.
const FIRST: Duration = Duration::from_secs(5 * 60);
/// How often, at most, a builder is started to look for what grew old, or for what it could not free before.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of a GB in cache policies.
const GB: u64 = 1 << 30;

/// Why a project's cache was not kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    /// Records.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Its builder, or its directory.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// What the project demands cannot be read.
    #[error(transparent)]
    Walls(#[from] WallsError),
}

/// What a project wants to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    most: Option<u64>,
    age: Option<Duration>,
}

impl From<CachePolicy> for Policy {
    fn from(cache: CachePolicy) -> Self {
        let some = |value: i32| u64::try_from(value).ok().filter(|value| *value > 0);
        Self {
            most: some(cache.keep_gb).map(|gb| gb * GB),
            age: some(cache.keep_days).map(|days| Duration::from_secs(days * DAY.as_secs())),
        }
    }
}

/// A project whose caches could not be brought within their bound.
#[derive(Debug, Clone, Copy)]
struct Stuck {
    at: Instant,
    bytes: u64,
    most: u64,
}

/// What came of making a project's caches smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made {
    /// One of them was asked to be smaller.
    any: bool,
    /// None of them has to wait for builds.
    all: bool,
}

struct Keeper {
    builds: Arc<Builds>,
    stuck: HashMap<String, Stuck>,
    /// Caches that could not be made smaller, and when that was tried: to try it again at once is no use.
    failed: HashMap<(String, Isolation), Instant>,
}

impl Builds {
    /// Runs for as long as the server does.
    pub(crate) async fn keep_caches(self: Arc<Self>, every: Duration) {
        let mut keeper = Keeper { builds: self, stuck: HashMap::new(), failed: HashMap::new() };
        tokio::time::sleep(FIRST.min(every)).await;
        loop {
            keeper.turn().await;
            tokio::time::sleep(every).await;
        }
    }
}

impl Keeper {
    /// One project after the other. What fails is in the log, and tried again the next time; what needs a builder, the next day.
    async fn turn(&mut self) {
        let projects = match crate::daily::projects(&self.builds.records).await {
            Ok(projects) => projects,
            Err(error) => {
                tracing::warn!(%error, "projects could not be listed to look at their caches");
                return;
            }
        };
        self.stuck.retain(|_, stuck| stuck.at.elapsed() < DAY);
        self.failed.retain(|_, at| at.elapsed() < DAY);
        for project in projects {
            if let Err(error) = self.project(&project).await {
                tracing::warn!(project, %error, "a project's cache could not be kept within bounds");
            }
        }
    }

    async fn project(&mut self, id: &str) -> Result<(), KeepError> {
        // It may have changed, or gone, while others had their turn.
        let project = self.builds.records.project(id).await?;
        let settled =
            |project: &Project| project.state == ProjectState::Active && !project.reset_pending;
        let Some(project) = project.filter(settled) else { return Ok(()) };
        let mut roots = self.builds.fleet.measure(id).await?;
        let made = self.make_room(&project, &mut roots).await?;
        if made.any {
            roots = self.builds.fleet.measure(id).await?;
        }
        if made.any && made.all {
            self.remember(&project, &roots);
        }
        self.builds.note(id, CACHE, total(&roots)).await;
        for kind in [REGISTRY, LOGS] {
            self.builds.look_at(id, kind).await;
        }
        Ok(())
    }

    /// Makes caches smaller where the policy wants it. One that cannot be is left for a day, and the others have to give.
    async fn make_room(
        &mut self,
        project: &Project,
        roots: &mut [Root],
    ) -> Result<Made, KeepError> {
        let policy = Policy::from(project.cache);
        let mut all = total(roots);
        let most = policy.most.filter(|most| !self.is_stuck(&project.id, all, *most));
        roots.sort_by_key(|root| (root.running, root.used_at));
        let rows = self.builds.records.project_storage(&project.id).await?;
        let mut made = Made { any: false, all: true };
        for root in &*roots {
            let name = collected(root.isolation);
            let last = rows.iter().find(|row| row.kind == name).map(|row| row.measured_at.into());
            let excess = most.map_or(0, |most| all.saturating_sub(most));
            let Some(keep) = wanted(root, excess, policy.age, last) else { continue };
            if !self.may_be_asked(&project.id, root) {
                continue;
            }
            let any = spec(project, Isolation::default(), self.builds.least())?;
            let spec = ProjectSpec { isolation: root.isolation, ..any };
            let level = root.isolation.name();
            let freed = match self.builds.fleet.collect(&spec, keep).await {
                Ok(Collected::Done { freed }) => freed,
                Ok(Collected::Busy) => {
                    let project = &project.id;
                    tracing::debug!(project, level, "a cache waits: builds need all builders");
                    made.all = false;
                    break;
                }
                Err(error) => {
                    let project = &project.id;
                    tracing::warn!(project, level, %error, "a cache could not be made smaller");
                    self.failed.insert((project.clone(), root.isolation), Instant::now());
                    continue;
                }
            };
            if freed > 0 {
                tracing::info!(project = project.id, level, freed, "a cache was made smaller");
            }
            all = all.saturating_sub(freed);
            self.builds.note(&project.id, name, root.bytes.saturating_sub(freed)).await;
            made.any = true;
        }
        Ok(made)
    }

    /// Whether it makes sense to ask a root's builder: it did not fail today, and is none that may not be started any more.
    fn may_be_asked(&mut self, project: &str, root: &Root) -> bool {
        let key = (project.to_owned(), root.isolation);
        if self.failed.contains_key(&key) {
            return false;
        }
        if root.running || root.isolation >= self.builds.least() {
            return true;
        }
        let level = root.isolation.name();
        tracing::warn!(project, level, "a cache stays: its level is too weak for this server");
        self.failed.insert(key, Instant::now());
        false
    }

    /// Whether it is known that nothing can be freed: what is left may be more than the bound.
    fn is_stuck(&self, project: &str, bytes: u64, most: u64) -> bool {
        let stuck = self.stuck.get(project);
        stuck.is_some_and(|stuck| {
            stuck.at.elapsed() < DAY && bytes <= stuck.bytes && most >= stuck.most
        })
    }

    /// Notes whether a project is within its bound now. What builds use while they run can go later.
    fn remember(&mut self, project: &Project, roots: &[Root]) {
        self.stuck.remove(&project.id);
        let bytes = total(roots);
        let most = Policy::from(project.cache).most;
        if let Some(most) = most.filter(|most| bytes > *most)
            && !roots.iter().any(|root| root.running)
        {
            tracing::warn!(project = project.id, bytes, most, "a cache is larger than its bound");
            self.stuck.insert(project.id.clone(), Stuck { at: Instant::now(), bytes, most });
        }
    }
}

/// Under which name it is kept when a level's cache was last made smaller from here, and how large it was then.
const fn collected(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Namespaces => "collected-namespaces",
        Isolation::Gvisor => "collected-gvisor",
        Isolation::Vm => "collected-vm",
    }
}

/// What to ask of a root's builder, if anything: `excess` bytes are too many over all of the project's roots.
fn wanted(
    root: &Root,
    excess: u64,
    age: Option<Duration>,
    last: Option<SystemTime>,
) -> Option<Keep> {
    let max_bytes = (excess > 0).then(|| root.bytes.saturating_sub(excess));
    // A builder that runs looks for what grew old itself.
    let old = !root.running && age.is_some_and(|age| may_hold_old(root, age, last));
    (max_bytes.is_some() || old).then_some(Keep { max_bytes, unused_for: age })
}

/// Whether there may be something in a root that was not used for `age`: its builder looked when it last ran, and `last` time from
/// here. Both are a day ago, and since its last use there was no such look that found all of it old.
fn may_hold_old(root: &Root, age: Duration, last: Option<SystemTime>) -> bool {
    let looked = last.map_or(root.used_at, |last| last.max(root.used_at));
    let empty_from = root.used_at.checked_add(age);
    let emptied = last.zip(empty_from).is_some_and(|(last, from)| last >= from);
    !emptied && looked.elapsed().is_ok_and(|since| since >= DAY)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIB: u64 = 1 << 30;

    fn days(count: u32) -> Duration {
        DAY * count
    }

    /// A root that was last used so many days ago.
    fn root(unused: u32) -> Root {
        let used_at = SystemTime::now() - days(unused);
        Root { isolation: Isolation::Namespaces, bytes: 3 * GIB, used_at, running: false }
    }

    #[test]
    fn policies_are_read() {
        let policy = Policy::from(CachePolicy { keep_gb: 50, keep_days: 14 });
        assert_eq!(policy, Policy { most: Some(50 * GIB), age: Some(days(14)) });
        let none = Policy { most: None, age: None };
        assert_eq!(Policy::from(CachePolicy { keep_gb: 0, keep_days: 0 }), none);
        assert_eq!(Policy::from(CachePolicy { keep_gb: -1, keep_days: -1 }), none);
        let large = Policy::from(CachePolicy { keep_gb: i32::MAX, keep_days: i32::MAX });
        assert!(large.most.is_some() && large.age.is_some());
    }

    #[test]
    fn what_is_too_much_has_to_go() {
        let keep = |excess| wanted(&root(0), excess, None, None);
        assert_eq!(keep(0), None);
        assert_eq!(keep(GIB).unwrap().max_bytes, Some(2 * GIB));
        assert_eq!(keep(9 * GIB).unwrap().max_bytes, Some(0), "others have to give, too");
        let running = Root { running: true, ..root(0) };
        assert!(wanted(&running, 1, None, None).is_some());
    }

    #[test]
    fn idle_caches_are_looked_at_once_a_day_until_nothing_old_can_be_in_them() {
        let age = days(14);
        let ago = |count| Some(SystemTime::now() - days(count));
        let wants = |root: &Root, last| wanted(root, 0, Some(age), last).is_some();
        assert!(!wants(&root(0), None), "its builder has just looked");
        assert!(wants(&root(2), None));
        assert!(!wants(&root(2), ago(0)));
        assert!(wants(&root(5), ago(1)));
        assert!(wants(&root(20), ago(7)), "it was used 13 days before that look");
        assert!(!wants(&root(20), ago(5)), "it was used 15 days before that look");
        assert!(!wants(&Root { running: true, ..root(5) }, None));
        assert!(wanted(&root(5), 0, None, None).is_none(), "nothing grows old");
        let keep = wanted(&root(5), GIB, Some(age), ago(0)).unwrap();
        assert_eq!(keep.unused_for, Some(age), "who looks anyway looks for both");
    }
}
