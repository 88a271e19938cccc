//! What the gate still has to tell its builder.
//!
//! Bounded: a builder that reads slowly gets sums instead of single connections, and never an unbounded queue here. The last
//! message about a step is always its end.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use tokio::sync::Notify;

use crate::control::Report;
use crate::record::{Connection, Unlisted};

/// Connections waiting to be sent, about 1 MiB at most.
const MAX_QUEUE: usize = 2048;

#[derive(Debug, Default)]
pub(crate) struct Reports {
    queue: RefCell<VecDeque<Report>>,
    sums: RefCell<HashMap<u32, Unlisted>>,
    wake: Notify,
}

impl Reports {
    /// Whether requests should wait: every request may add a report that cannot be summed.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.borrow().len() >= 2 * MAX_QUEUE
    }

    /// Queues an answer to a request.
    pub(crate) fn answer(&self, report: Report) {
        self.queue.borrow_mut().push_back(report);
        self.wake.notify_one();
    }

    pub(crate) fn connection(&self, id: u32, connection: Connection) {
        if self.queue.borrow().len() < MAX_QUEUE {
            self.answer(Report::Connection { id, connection });
        } else {
            self.sums.borrow_mut().entry(id).or_default().count(&connection);
        }
    }

    /// Counts refusals that look like one already reported.
    pub(crate) fn repeated(&self, id: u32) {
        self.sums
            .borrow_mut()
            .entry(id)
            .or_default()
            .add(Unlisted { denied: 1, ..Unlisted::default() });
        self.wake.notify_one();
    }

    /// Queues what is left about a step and its end.
    pub(crate) fn finish(&self, id: u32) {
        if let Some(sum) = self.sums.borrow_mut().remove(&id) {
            self.queue.borrow_mut().push_back(Report::Unlisted { id, sum });
        }
        self.answer(Report::Detached { id });
    }

    /// The next message to send; sums only when nothing else waits.
    pub(crate) async fn next(&self) -> Report {
        loop {
            if let Some(report) = self.queue.borrow_mut().pop_front() {
                return report;
            }
            let id = self.sums.borrow().keys().next().copied();
            if let Some(id) = id
                && let Some(sum) = self.sums.borrow_mut().remove(&id)
            {
                return Report::Unlisted { id, sum };
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::record::{Protocol, StepName, Verdict};

    #[tokio::test]
    async fn a_slow_reader_gets_sums_and_the_end_last() {
        let reports = Reports::default();
        let connection = Connection {
            step: StepName::new("s"),
            name: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 1,
            protocol: Protocol::Tcp,
            bytes_up: 1,
            bytes_down: 2,
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            verdict: Verdict::allowed("public"),
            failure: None,
        };
        for _ in 0..MAX_QUEUE + 5 {
            reports.connection(1, connection.clone());
        }
        reports.repeated(1);
        reports.finish(1);
        let mut listed = 0;
        let sum = loop {
            match reports.next().await {
                Report::Connection { .. } => listed += 1,
                Report::Unlisted { sum, .. } => break sum,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(listed, MAX_QUEUE);
        assert_eq!(sum, Unlisted { allowed: 5, denied: 1, bytes_up: 5, bytes_down: 10 });
        assert_eq!(reports.next().await, Report::Detached { id: 1 });
    }
}
