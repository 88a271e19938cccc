//! What is said of a build by itself, at the top of its page and in lists.

use chrono::{DateTime, Utc};

use super::{BuildView, Status};
use crate::format;
use crate::text::{Markup, shown};

/// A build as templates show it.
pub(crate) struct Summary {
    pub(crate) id: Markup,
    pub(crate) status: Status,
    pub(crate) command: Option<Markup>,
    /// When it started, or was created if it did not start.
    pub(crate) began: String,
    pub(crate) began_machine: String,
    pub(crate) began_ago: String,
    pub(crate) duration: String,
    pub(crate) cache: Ratio,
    /// What the cache saved; empty if nothing.
    pub(crate) saved: String,
}

/// A part of a whole, in numbers and as a bar.
pub(crate) struct Ratio {
    pub(crate) part: String,
    pub(crate) whole: String,
    pub(crate) percent: u64,
    pub(crate) empty: bool,
}

impl Ratio {
    pub(crate) fn new(part: u64, whole: u64) -> Ratio {
        let percent = u128::from(part) * 100 / u128::from(whole.max(1));
        Ratio {
            part: format::count(part),
            whole: format::count(whole),
            percent: u64::try_from(percent.min(100)).unwrap_or(100),
            empty: whole == 0,
        }
    }
}

impl Summary {
    pub(crate) fn new(build: &BuildView, now: DateTime<Utc>) -> Summary {
        let began = build.began();
        Summary {
            id: shown(&build.id),
            status: build.status,
            command: build.command.as_deref().map(shown),
            began: format::moment(began),
            began_machine: format::machine(began),
            began_ago: format::ago(began, now),
            duration: format::duration(format::between(began, build.ended(now))),
            cache: Ratio::new(build.cached_steps, build.total_steps),
            saved: if build.saved.is_zero() {
                String::new()
            } else {
                format::duration(build.saved)
            },
        }
    }
}

impl BuildView {
    /// Where its time axis begins.
    pub(crate) fn began(&self) -> DateTime<Utc> {
        self.started_at.unwrap_or(self.created_at)
    }

    /// Where its time axis ends. A build without an end that does not run any more has no length.
    pub(crate) fn ended(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let open_end = if self.status == Status::Running { now } else { self.began() };
        self.finished_at.unwrap_or(open_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_stay_between_nothing_and_all() {
        assert_eq!(Ratio::new(1, 3).percent, 33);
        assert_eq!(Ratio::new(0, 0).percent, 0);
        assert!(Ratio::new(0, 0).empty);
        assert_eq!(Ratio::new(5, 3).percent, 100);
        assert_eq!(Ratio::new(u64::MAX, 1).percent, 100);
    }
}
