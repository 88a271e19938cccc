//! What is known of a step's flows while they are open, and the records made of it.
//!
//! A flow that outlives many steps, as a builder's pooled connections do, is reported in parts: each part has the bytes since the
//! one before. Every flow is in at least one report, and no byte is in two.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::record::{Connection, Protocol, Verdict};
use crate::step::{Key, Step};

/// One allowed flow.
#[derive(Debug)]
pub(crate) struct OpenFlow {
    key: Key,
    protocol: Protocol,
    verdict: Verdict,
    name: Option<String>,
    at: SystemTime,
    clock: Instant,
    up: Cell<u64>,
    down: Cell<u64>,
    /// What earlier reports had; absent before the first.
    reported: Cell<Option<(u64, u64)>>,
}

/// An allowed flow in the hands of its relay; when dropped it leaves the tables and is recorded.
pub(crate) struct Started {
    pub(crate) step: Rc<Step>,
    pub(crate) key: Key,
    pub(crate) failure: Option<String>,
    pub(crate) open: Rc<OpenFlow>,
}

impl Started {
    pub(crate) fn new(step: Rc<Step>, key: Key, protocol: Protocol, verdict: Verdict) -> Self {
        let name = step.name_of(*key.destination.ip());
        let open = Rc::new(OpenFlow {
            key,
            protocol,
            verdict,
            name,
            at: SystemTime::now(),
            clock: Instant::now(),
            up: Cell::new(0),
            down: Cell::new(0),
            reported: Cell::new(None),
        });
        step.open.borrow_mut().insert((protocol, key), Rc::clone(&open));
        Self { step, key, failure: None, open }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.step.forget(self.open.protocol, self.key);
        self.open.report(&self.step, self.failure.take());
    }
}

impl OpenFlow {
    pub(crate) fn count_up(&self, bytes: usize) {
        self.up.set(self.up.get() + bytes as u64);
    }

    pub(crate) fn count_down(&self, bytes: usize) {
        self.down.set(self.down.get() + bytes as u64);
    }

    /// Reports what is new of the flow, if anything is.
    pub(crate) fn report(&self, step: &Step, failure: Option<String>) {
        // Lookups are not connections to anywhere.
        if self.key.is_name_service() {
            return;
        }
        let now = (self.up.get(), self.down.get());
        let before = self.reported.replace(Some(now));
        if before == Some(now) && failure.is_none() {
            return;
        }
        let (up, down) = before.unwrap_or_default();
        let connection = Connection {
            step: step.name.clone(),
            name: self.name.clone(),
            address: IpAddr::V4(*self.key.destination.ip()),
            port: self.key.destination.port(),
            protocol: self.protocol,
            bytes_up: now.0.saturating_sub(up),
            bytes_down: now.1.saturating_sub(down),
            started: self.at,
            duration: self.clock.elapsed(),
            verdict: self.verdict.clone(),
            failure,
        };
        step.record(connection);
    }
}

/// The flows of a step that are open.
pub(crate) type OpenFlows = RefCell<std::collections::HashMap<(Protocol, Key), Rc<OpenFlow>>>;
