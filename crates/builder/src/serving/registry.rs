//! The builds a server has told this builder of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connectrpc::ErrorCode;

use super::build::ServedBuild;
use super::scope::Scope;
use crate::failure::Failure;

/// Builds that are open at the same time: the server closes each.
const MAX_OPEN: usize = 10_000;
/// Closed builds that are remembered, so that none is opened again by a connection that was on its way.
const MAX_CLOSED: usize = 10_000;

/// Builds by id.
#[derive(Default)]
pub(crate) struct ServedBuilds(Mutex<Builds>);

#[derive(Default)]
struct Builds {
    open: HashMap<String, Arc<ServedBuild>>,
    closed: HashSet<String>,
    /// `closed`, oldest first.
    order: VecDeque<String>,
}

impl ServedBuilds {
    fn lock(&self) -> MutexGuard<'_, Builds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The build with this id, which it has from now on if it was unknown. A build that was closed is there, and closed.
    pub(super) fn open(&self, id: &str) -> Result<Arc<ServedBuild>, Failure> {
        let mut builds = self.lock();
        if let Some(build) = builds.open.get(id) {
            return Ok(Arc::clone(build));
        }
        let build = ServedBuild::new(id);
        if builds.closed.contains(id) {
            build.close();
        } else if builds.open.len() < MAX_OPEN {
            builds.open.insert(id.to_owned(), Arc::clone(&build));
        } else {
            return Err(Failure::new(ErrorCode::ResourceExhausted, "too many builds are open"));
        }
        Ok(build)
    }

    /// The scope of a connection of build `id`.
    pub(crate) fn scope(&self, id: &str) -> Result<Scope, Failure> {
        self.open(id).map(Scope::of)
    }

    /// Closes a build and forgets all but its id. Those who watch it still get the rest.
    pub(super) fn close(&self, id: &str) {
        let mut builds = self.lock();
        if let Some(build) = builds.open.remove(id) {
            build.close();
        }
        if builds.closed.insert(id.to_owned()) {
            builds.order.push_back(id.to_owned());
            if builds.order.len() > MAX_CLOSED
                && let Some(oldest) = builds.order.pop_front()
            {
                builds.closed.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_closed_build_is_never_open_again() {
        let builds = ServedBuilds::default();
        let first = builds.open("b1").unwrap();
        assert!(Arc::ptr_eq(&first, &builds.open("b1").unwrap()));
        builds.close("b1");
        builds.close("b1");
        assert!(first.state().borrow().closed);
        assert!(builds.open("b1").unwrap().state().borrow().closed);
        builds.close("never-seen");
        assert!(builds.open("never-seen").unwrap().state().borrow().closed);
        assert!(!builds.open("b2").unwrap().state().borrow().closed);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let builds = ServedBuilds::default();
        for number in 0..MAX_CLOSED + 10 {
            builds.close(&number.to_string());
        }
        let known = builds.lock();
        assert_eq!((known.closed.len(), known.order.len()), (MAX_CLOSED, MAX_CLOSED));
        drop(known);
        for number in 0..MAX_OPEN {
            builds.open(&format!("open-{number}")).unwrap();
        }
        assert!(builds.open("one-more").is_err());
    }
}
