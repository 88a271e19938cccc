//! Who is killed, when, and by whose number.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::dice::Dice;
use crate::load::{Running, until_said};

/// Roles of processes of the product; whoever else is there belongs to a step.
const ROLES: &[&str] =
    &["server", "supervisor", "gate", "init", "builder", "nursery", "helper", "machine"];

/// Moments that are aimed at begin with one of these words of a build.
const WORDS: &[&str] = &[
    "load build context",
    "RUN echo step",
    "exporting layers",
    "pushing layers",
    "sending tarball",
];

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The server.
    Server,
    /// The server, and then the next one while it starts.
    Startup,
    /// Whoever has this role.
    Role(&'static str),
    /// A process of a step.
    Step,
    /// All at once.
    Everything,
}

/// Those of a server, the likelier ones more often.
pub(crate) const SERVED: &[Victim] = &[
    Victim::Server,
    Victim::Server,
    Victim::Server,
    Victim::Server,
    Victim::Startup,
    Victim::Startup,
    Victim::Everything,
    Victim::Everything,
    Victim::Role("supervisor"),
    Victim::Role("supervisor"),
    Victim::Role("builder"),
    Victim::Role("builder"),
    Victim::Role("builder"),
    Victim::Role("gate"),
    Victim::Role("gate"),
    Victim::Role("helper"),
    Victim::Role("helper"),
    Victim::Role("nursery"),
    Victim::Role("init"),
    Victim::Step,
];

/// Those of a builder by itself.
pub(crate) const ALONE: &[Victim] = &[
    Victim::Role("supervisor"),
    Victim::Role("supervisor"),
    Victim::Role("supervisor"),
    Victim::Role("builder"),
    Victim::Role("builder"),
    Victim::Role("builder"),
    Victim::Everything,
    Victim::Everything,
    Victim::Role("gate"),
    Victim::Role("helper"),
    Victim::Role("helper"),
    Victim::Role("nursery"),
    Victim::Role("init"),
    Victim::Step,
];

impl Victim {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Startup => "server while it starts",
            Self::Role(role) => role,
            Self::Step => "step",
            Self::Everything => "everything",
        }
    }

    /// Whether the builder goes on when it is killed.
    pub(crate) fn is_replaced(self) -> bool {
        matches!(self, Self::Step | Self::Role("helper"))
    }

    /// Whether a server goes with it.
    pub(crate) fn is_server(self) -> bool {
        matches!(self, Self::Server | Self::Startup | Self::Everything)
    }
}

/// Waits for a moment: any in the life of the builds, or one soon after they say something.
pub(crate) fn wait(running: &[Running], dice: &mut Dice) -> String {
    if dice.once_in(3) {
        let words = dice.one_of(WORDS);
        let pause = dice.moment(60);
        until_said(running, words);
        std::thread::sleep(pause);
        return format!("{} ms after {words:?}", pause.as_millis());
    }
    let pause = dice.moment(1500);
    std::thread::sleep(pause);
    format!("after {} ms", pause.as_millis())
}

/// Kills one process of a role; false when there is none.
pub(crate) fn kill(victim: Victim, members: &BTreeMap<i32, String>, dice: &mut Dice) -> bool {
    let fits = |role: &str| match victim {
        Victim::Role(wanted) => role == wanted,
        Victim::Step => !ROLES.contains(&role),
        Victim::Server | Victim::Startup | Victim::Everything => false,
    };
    let pids: Vec<i32> =
        members.iter().filter(|(_, role)| fits(role)).map(|(pid, _)| *pid).collect();
    if pids.is_empty() {
        return false;
    }
    send(dice.one_of(&pids));
    true
}

/// Kills all of them.
pub(crate) fn kill_all(members: &BTreeMap<i32, String>) {
    for pid in members.keys() {
        send(*pid);
    }
}

fn send(pid: i32) {
    // It may have ended by itself.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
}

/// How many builders there are, when all of them are whole and none has a step; otherwise what is wrong.
pub(crate) fn whole_builders(members: &BTreeMap<i32, String>) -> Result<usize, String> {
    let mut roles: BTreeMap<&str, usize> = BTreeMap::new();
    for role in members.values() {
        *roles.entry(role).or_insert(0) += 1;
    }
    let of = |role: &str| roles.get(role).copied().unwrap_or(0);
    let builders = of("supervisor");
    let whole = ["gate", "init", "builder", "nursery"].iter().all(|role| of(role) == builders);
    let known = roles.keys().all(|role| ROLES.contains(role));
    if whole && known && of("helper") == 2 * builders {
        Ok(builders)
    } else {
        Err(format!("{roles:?}"))
    }
}

/// Waits until something holds, and gives it; what is wrong still when there is no more patience.
pub(crate) fn await_for<T>(
    patience: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let begun = Instant::now();
    loop {
        let found = look();
        if found.is_ok() || begun.elapsed() > patience {
            return found;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// The same for what has to hold in the end.
pub(crate) fn settle<T>(
    what: &str,
    patience: Duration,
    look: impl FnMut() -> Result<T, String>,
) -> T {
    await_for(patience, look).unwrap_or_else(|trouble| panic!("{what}: {trouble}"))
}
