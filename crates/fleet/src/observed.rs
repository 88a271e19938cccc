//! What happens to the builders of a fleet, for whoever counts it. Nothing here names a project.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// A place for a new builder was had, after so long; zero when one was free.
    Room(Duration),
    /// A new builder answers, so long after its start.
    Started(Duration),
    /// A new builder could not be started.
    NotStarted,
    /// A builder has ended, because the fleet told it to or by itself.
    Ended {
        /// Whether it was told to.
        told: bool,
    },
}

/// Who is told.
#[derive(Default)]
pub(crate) struct Observer(OnceLock<Box<dyn Fn(Observed) + Send + Sync>>);

impl Observer {
    /// Only the first one is told.
    pub(crate) fn set(&self, observer: impl Fn(Observed) + Send + Sync + 'static) {
        // A second one has no meaning: a fleet has one owner.
        let _ = self.0.set(Box::new(observer));
    }

    pub(crate) fn tell(&self, what: Observed) {
        if let Some(observer) = self.0.get() {
            observer(what);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observer")
    }
}
