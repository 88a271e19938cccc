//! What time it is: for the order and the age of what is stored, whatever the clock does.
//!
//! A wall clock is set by people and servers. Stamps made here never go back while a store is
//! open, and time over which the wall clock jumped makes nothing older: stamps from before a jump
//! follow it. Must never be used for waiting.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::ids::LayerId;
use crate::state::{State, lock};
use crate::store::Store;

/// More than this between the wall clock and the machine's own is a clock that was set.
const JUMP: Duration = Duration::from_secs(60 * 60);
/// How long after a jump no file is old: their times cannot follow it. Long enough for a wrong
/// clock to be set right.
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
    /// Until this time since boot no file is old.
    hold_until: Option<Duration>,
    /// Jumps ahead that what was stamped before has not followed yet.
    jumps: Vec<Jump>,
}

/// The wall clock was set ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jump {
    /// The newest stamp that can have been given out before.
    pub(crate) until: DateTime<Utc>,
    /// How far the clock went.
    pub(crate) by: TimeDelta,
}

impl Jump {
    /// A stamp from before the jump as the clock of afterwards would have made it; a later one as
    /// it is.
    pub(crate) fn followed_by(self, stamp: DateTime<Utc>) -> DateTime<Utc> {
        if stamp > self.until {
            return stamp;
        }
        stamp.checked_add_signed(self.by).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

impl Time {
    pub(crate) fn new(clock: Box<dyn Clock>) -> Self {
        let (wall, boot) = (clock.now(), clock.since_boot());
        let seen = Seen { stamp: wall, wall, boot, hold_until: None, jumps: Vec::new() };
        Self { clock, seen: Mutex::new(seen) }
    }

    /// The wall clock as it is, after a look at whether it was set.
    fn look(&self, seen: &mut Seen) -> DateTime<Utc> {
        let (wall, boot) = (self.clock.now(), self.clock.since_boot());
        let passed = boot.saturating_sub(seen.boot);
        let expected = later(seen.wall, passed);
        if wall > later(expected, JUMP) {
            tracing::warn!(%wall, %expected, "the clock jumped ahead: that makes nothing older");
            seen.hold_until = Some(boot.saturating_add(HOLD));
        }
        if seen.hold_until.is_some_and(|until| until <= boot) {
            seen.hold_until = None;
        }
        // A clock that was set back is followed by stamps that still go on; one that is only set
        // right again does not jump for them.
        let stamp = later(seen.stamp, passed);
        if wall > later(stamp, JUMP) {
            seen.jumps.push(Jump { until: stamp, by: wall.signed_duration_since(stamp) });
        }
        seen.stamp = wall.max(stamp);
        (seen.wall, seen.boot) = (wall, boot);
        wall
    }

    /// A stamp: never before an earlier one of this store.
    pub(crate) fn stamp(&self) -> DateTime<Utc> {
        let mut seen = lock(&self.seen);
        self.look(&mut seen);
        seen.stamp
    }

    /// Whether the times of files tell nothing for now.
    pub(crate) fn is_held(&self) -> bool {
        let mut seen = lock(&self.seen);
        self.look(&mut seen);
        seen.hold_until.is_some()
    }

    /// The wall clock's time, and the jumps that older stamps have to follow before they are
    /// compared with it.
    fn take_jumps(&self) -> (DateTime<Utc>, Vec<Jump>) {
        let mut seen = lock(&self.seen);
        let wall = self.look(&mut seen);
        (wall, std::mem::take(&mut seen.jumps))
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

    /// Lets what is stamped follow a clock that was set, and gives the time that ages are counted
    /// from. Stamps that the future holds after a clock was set back come back: they would never
    /// grow old, and would be the last to go.
    pub(crate) fn follow_clock(&self) -> DateTime<Utc> {
        let (wall, jumps) = self.time.take_jumps();
        let mut state = lock(&self.state);
        follow_jumps(&mut state, &jumps);
        if calm_future(&mut state, wall, later(wall, JUMP)) {
            self.time.rewind();
        }
        wall
    }
}

/// Moves stamps over jumps of the clock, so that what they stamp is as old as before.
fn follow_jumps(state: &mut State, jumps: &[Jump]) {
    if jumps.is_empty() {
        return;
    }
    let moved = |stamp| jumps.iter().fold(stamp, |stamp, jump| jump.followed_by(stamp));
    for (id, entry) in &mut state.layers {
        let info = &mut entry.info;
        info.created_at = moved(info.created_at);
        info.last_used_at = info.last_used_at.map(moved);
        // Not a mere note of use: without it all is old after a crash.
        state.pending.layers.insert(*id);
    }
    for (id, entry) in &mut state.directories {
        let row = &mut entry.row;
        row.created_at = moved(row.created_at);
        row.last_used_at = row.last_used_at.map(moved);
        state.pending.directories.insert(*id);
    }
    for used in state.document_uses.values_mut() {
        *used = moved(*used);
    }
    state.document_jumps.extend_from_slice(jumps);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_follows_the_jumps_that_came_after_it() {
        let day = |days: i64| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(days);
        let jump = Jump { until: day(10), by: TimeDelta::days(30) };
        assert_eq!(jump.followed_by(day(4)), day(34));
        assert_eq!(jump.followed_by(day(10)), day(40));
        assert_eq!(jump.followed_by(day(41)), day(41), "it was made afterwards");
        let never = Jump { until: day(10), by: TimeDelta::MAX };
        assert_eq!(never.followed_by(day(4)), DateTime::<Utc>::MAX_UTC);
    }
}
