//! What an attack is, and what comes of trying one.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::stage::Stage;

/// A level of isolation, as `cofferdam builder --isolation` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Namespaces,
    Gvisor,
    Vm,
}

impl Level {
    pub(crate) const ALL: [Self; 3] = [Self::Namespaces, Self::Gvisor, Self::Vm];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Gvisor => "gvisor",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where an attack is tried. In a virtual machine, which is emulated where tests run, only what a machine of one's own could make
/// a difference for.
pub(crate) const EVERYWHERE: &[Level] = &[Level::Namespaces, Level::Gvisor, Level::Vm];
/// Where steps meet the machine's own kernel, or a Linux of the builder's.
pub(crate) const LINUX: &[Level] = &[Level::Namespaces, Level::Vm];
/// What the builder does the same way at every level; a virtual machine adds nothing but time.
pub(crate) const BUILDER: &[Level] = &[Level::Namespaces, Level::Gvisor];
/// What does not depend on the level at all.
pub(crate) const ONCE: &[Level] = &[Level::Namespaces];

/// One attack.
#[derive(Debug)]
pub(crate) struct Attack {
    /// What the threat model calls it.
    pub(crate) name: &'static str,
    /// What it is, with the number of what it was first seen as.
    pub(crate) what: &'static str,
    /// The class of the vulnerability.
    pub(crate) class: &'static str,
    pub(crate) levels: &'static [Level],
    pub(crate) way: Way,
}

/// An attack with an attempt and a control of its own.
pub(crate) const fn own(
    class: &'static str,
    name: &'static str,
    what: &'static str,
    levels: &'static [Level],
    attempt: fn(&Stage) -> String,
    control: fn(&Stage) -> Control,
) -> Attack {
    Attack { name, what, class, levels, way: Way::Own { attempt, control } }
}

/// How it is tried.
pub(crate) enum Way {
    /// By the probe in a step, under these keys; the control is the same probe in a plain chroot.
    Probe(&'static [&'static str]),
    /// As above, and for this reason a kernel may not let it succeed anywhere.
    ProbeAlone(&'static [&'static str], &'static str),
    /// By a function that panics when the attack succeeds and says what it saw otherwise, and one that panics unless the same
    /// succeeds without the wall.
    Own { attempt: fn(&Stage) -> String, control: fn(&Stage) -> Control },
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(keys) | Self::ProbeAlone(keys, _) => f.debug_list().entries(*keys).finish(),
            Self::Own { .. } => f.write_str("own"),
        }
    }
}

/// What a control showed.
#[derive(Debug, Clone)]
pub(crate) enum Control {
    /// The attack works without the wall.
    Shown(String),
    /// Nothing here can show it, for this reason.
    Impossible(&'static str),
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) level: Level,
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) control: Result<Control, String>,
    pub(crate) held: Result<String, String>,
}

impl Row {
    pub(crate) fn good(&self) -> bool {
        self.control.is_ok() && self.held.is_ok()
    }
}

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps messages of panics for the table instead of printing them.
pub(crate) fn catch_messages() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let literal = payload.downcast_ref::<&str>().copied();
        let message = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("panicked");
        let place =
            info.location().map(|at| format!("{}:{}: ", at.file(), at.line())).unwrap_or_default();
        LAST.with_borrow_mut(|last| *last = format!("{place}{message}"));
    }));
}

/// Runs something that panics when it fails.
pub(crate) fn attempt<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| LAST.with_borrow(Clone::clone))
}

impl Attack {
    /// Tries it at a stage, and the control unless an earlier level has seen that.
    pub(crate) fn run(&self, stage: &Stage, control: Option<Result<Control, String>>) -> Row {
        let held = attempt(|| match &self.way {
            Way::Probe(keys) | Way::ProbeAlone(keys, _) => stage.inside().held(keys),
            Way::Own { attempt, .. } => attempt(stage),
        });
        let control = control.unwrap_or_else(|| {
            attempt(|| match &self.way {
                Way::Probe(keys) => Control::Shown(stage.outside().breached(keys)),
                Way::ProbeAlone(keys, why) => {
                    let seen = attempt(|| stage.outside().breached(keys));
                    seen.map_or(Control::Impossible(why), Control::Shown)
                }
                Way::Own { control, .. } => control(stage),
            })
        });
        let held = held.and_then(|seen| attempt(|| stage.unharmed()).map(|()| seen));
        Row { level: stage.level, name: self.name, what: self.what, control, held }
    }
}
