//! What time it is: for the order and the age of what is stored, whatever the clock does.
//!
//! A wall clock is set by people and servers. Stamps made here never go back while a store is
//! open, and what the wall clock says after a jump forward makes nothing old for a day. Must
//! never be used for waiting.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::ids::LayerId;
use crate::state::{State, lock};
use crate::store::Store;

/// More than this between the wall clock and the machine's own is a clock that was set.
const JUMP: Duration = Duration::from_secs(60 * 60);
/// How long a jump forward makes nothing old: long enough for a wrong clock to be set right.
const HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a store gets the time from.
pub trait Clock: Send + Sync {
    /// The time of the wall clock, which may be set to anything at any moment.
    fn now(&self) -> DateTime<Utc>;

    /// The time since the machine started, with its sleep; never set and never going back.
    fn since_boot(&self) -> Duration;
}

/// The clocks of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn since_boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::from_secs(seconds)
            + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// A clock and what it said before.
pub(crate) struct Time {
    clock: Box<dyn Clock>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// The newest stamp given out.
    stamp: DateTime<Utc>,
    /// The wall clock and the time since boot at the last look.
    wall: DateTime<Utc>,
    boot: Duration,
    /// Until this time since boot nothing grows old.
    hold_until: Option<Duration>,
}

impl Time {
    pub(crate) fn new(clock: Box<dyn Clock>) -> Self {
        let (wall, boot) = (clock.now(), clock.since_boot());
        Self { clock, seen: Mutex::new(Seen { stamp: wall, wall, boot, hold_until: None }) }
    }

    /// The wall clock as it is, after a look at whether it was set.
    fn look(&self, seen: &mut Seen) -> DateTime<Utc> {
        let (wall, boot) = (self.clock.now(), self.clock.since_boot());
        let passed = boot.saturating_sub(seen.boot);
        let expected = later(seen.wall, passed);
        if wall > later(expected, JUMP) {
            tracing::warn!(%wall, %expected, "the clock jumped ahead: nothing grows old for a day");
            seen.hold_until = Some(boot.saturating_add(HOLD));
        }
        if seen.hold_until.is_some_and(|until| until <= boot) {
            seen.hold_until = None;
        }
        // A clock that was set back is followed by stamps that still go on.
        seen.stamp = wall.max(later(seen.stamp, passed));
        (seen.wall, seen.boot) = (wall, boot);
        wall
    }

    /// A stamp: never before an earlier one of this store.
    pub(crate) fn stamp(&self) -> DateTime<Utc> {
        let mut seen = lock(&self.seen);
        self.look(&mut seen);
        seen.stamp
    }

    /// The wall clock's time, and whether nothing may grow old for now.
    pub(crate) fn for_ages(&self) -> (DateTime<Utc>, bool) {
        let mut seen = lock(&self.seen);
        let wall = self.look(&mut seen);
        (wall, seen.hold_until.is_some())
    }

    /// Stamps go on from the wall clock again: the later ones were taken back.
    fn rewind(&self) {
        let mut seen = lock(&self.seen);
        seen.stamp = self.clock.now();
    }
}

fn later(time: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    let by = TimeDelta::from_std(by).unwrap_or(TimeDelta::MAX);
    time.checked_add_signed(by).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

impl Store {
    /// The time for stamps: the wall clock's, but never before an earlier answer.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.time.stamp()
    }

    /// Brings stamps back that the future holds, after a clock was set back: they would never
    /// grow old, and would be the last to go.
    pub(crate) fn calm_future(&self, wall: DateTime<Utc>) {
        let mut state = lock(&self.state);
        if calm_future(&mut state, wall, later(wall, JUMP)) {
            self.time.rewind();
        }
    }
}

/// Sets stamps after `limit` to `now`; whether there were any.
pub(crate) fn calm_future(state: &mut State, now: DateTime<Utc>, limit: DateTime<Utc>) -> bool {
    let future = |stamp: Option<DateTime<Utc>>| stamp.is_some_and(|stamp| stamp > limit);
    let mut layers: Vec<LayerId> = Vec::new();
    for (id, entry) in &mut state.layers {
        let info = &mut entry.info;
        let (made, used) = (future(Some(info.created_at)), future(info.last_used_at));
        if made {
            info.created_at = now;
        }
        if used {
            info.last_used_at = Some(now);
        }
        if made || used {
            layers.push(*id);
        }
    }
    let mut directories: Vec<u64> = Vec::new();
    for (id, entry) in &mut state.directories {
        let row = &mut entry.row;
        let (made, used) = (future(Some(row.created_at)), future(row.last_used_at));
        if made {
            row.created_at = now;
        }
        if used {
            row.last_used_at = Some(now);
        }
        if made || used {
            directories.push(*id);
        }
    }
    let any = !(layers.is_empty() && directories.is_empty());
    state.pending.touched.extend(layers);
    state.pending.directories.extend(directories);
    any
}
