//! What a builder reports of one build, added to the figures and told in the log.
//!
//! The builder is behind a wall: what it says moves totals within bounds, and nothing that a tenant wrote is in them or in the log.

use std::collections::{BTreeMap, HashSet};

use cofferdam_records::{ConnectionRecord, StepUpdate};

use crate::metrics::{
    ALL, CACHE_LOOKUPS, CACHE_SAVED, EGRESS_BYTES, EGRESS_CONNECTIONS, STEP_SECONDS, STEPS,
};

/// Longest time that a step is believed to have taken: no build may run longer.
const LONGEST: f64 = 24.0 * 3600.0;
/// Most bytes that one connection is believed to have carried.
const MOST_BYTES: u64 = 1 << 44;
/// Most connections that are counted of one build: as many as are kept.
const MOST_CONNECTIONS: usize = 10_000;

/// What was counted of a build.
#[derive(Default)]
pub(super) struct Counts {
    /// Steps and how they ended: several solves of a build may report the same.
    ended: HashSet<(String, &'static str)>,
    /// How many connections were counted.
    connections: usize,
    /// Steps that connections of were refused.
    refused: HashSet<String>,
}

impl Counts {
    /// A step as it was reported.
    pub(super) fn step(&mut self, step: &StepUpdate) {
        let Some(completed_at) = step.completed_at else { return };
        let result = match (&step.error, step.cached) {
            (Some(_), _) => "failed",
            (None, true) => "cached",
            (None, false) => "executed",
        };
        if !self.ended.insert((step.digest.clone(), result)) {
            return;
        }
        let took = (completed_at - step.started_at).to_std().unwrap_or_default();
        let seconds = took.as_secs_f64().min(LONGEST);
        STEPS.count(result, 1);
        STEP_SECONDS.observe(result, seconds);
        if result == "cached" {
            CACHE_LOOKUPS.count("hit", 1);
            CACHE_SAVED.observe(ALL, step.saved.as_secs_f64().min(LONGEST));
        } else {
            CACHE_LOOKUPS.count("miss", 1);
        }
        match result {
            "failed" => tracing::info!(step = step.digest, seconds, "a step failed"),
            _ => tracing::debug!(step = step.digest, result, seconds, "a step ended"),
        }
    }

    /// Connections as they were reported.
    pub(super) fn connections(&mut self, connections: &[ConnectionRecord]) {
        let room = MOST_CONNECTIONS.saturating_sub(self.connections);
        let counted = &connections[..connections.len().min(room)];
        self.connections += counted.len();
        let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
        for connection in counted {
            let verdict = if connection.allowed { "allowed" } else { "refused" };
            EGRESS_CONNECTIONS.count(verdict, 1);
            EGRESS_BYTES.count("sent", connection.sent.min(MOST_BYTES));
            EGRESS_BYTES.count("received", connection.received.min(MOST_BYTES));
            if !connection.allowed {
                *refused.entry(&connection.step).or_default() += 1;
            }
        }
        for (step, connections) in refused {
            let first = self.refused.insert(step.to_owned());
            let step = Some(step).filter(|step| !step.is_empty());
            // One that is refused may try again and again.
            if first {
                tracing::info!(step, connections, "connections were refused by the egress policy");
            } else {
                tracing::debug!(step, connections, "more connections were refused");
            }
        }
    }
}
