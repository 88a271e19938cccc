//! Whose connection it is, and what follows from that for names and errors.

use std::sync::Arc;

use cofferdam_solver::Job;
use connectrpc::ErrorCode;

use super::build::ServedBuild;
use super::solve::Solving;
use crate::admission::Share;
use crate::builder::STOPPING;
use crate::failure::Failure;
use crate::runtime::OpRuntime;

/// Sessions may be asked for under this prefix, which keeps vertices apart and means nothing else.
const TWIN: &str = "x:";

/// The build that everything on a connection belongs to; the default is none in particular.
#[derive(Clone, Default)]
pub(crate) struct Scope(Option<Arc<ServedBuild>>);

impl Scope {
    /// A connection of `build`.
    pub(super) const fn of(build: Arc<ServedBuild>) -> Self {
        Self(Some(build))
    }

    /// What a client's reference or session is called in this builder.
    pub(crate) fn name(&self, id: &str) -> String {
        match &self.0 {
            Some(build) if !id.is_empty() => {
                format!("{}/{}", build.id(), id.strip_prefix(TWIN).unwrap_or(id))
            }
            _ => id.to_owned(),
        }
    }

    /// The build that a job or a session of this builder belongs to, by its name; the name itself, where there is no server.
    pub(crate) fn build_of(name: &str) -> &str {
        name.split_once('/').map_or(name, |(build, _)| build)
    }

    /// Whose records of builds these are: the build's id, or nothing.
    pub(crate) fn owner(&self) -> &str {
        self.0.as_ref().map_or("", |build| build.id())
    }

    /// Whether this is a builder of no server.
    pub(crate) const fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// What this solve has together with others of its build; a build of no server has one solve.
    pub(crate) fn share(&self) -> Arc<Share> {
        self.0.as_ref().map(|build| build.share()).unwrap_or_default()
    }

    /// Counts a solve among those of the build, if the build takes any.
    pub(crate) fn begin(
        &self,
        reference: &str,
        job: &Arc<Job<OpRuntime>>,
    ) -> Result<Solving, Failure> {
        match &self.0 {
            Some(build) => Ok(Solving::of(build.begin(reference, job)?)),
            None => Ok(Solving::default()),
        }
    }

    /// A failure as the client is to read it: without names of this builder's own, and with the reason when the build was
    /// cancelled from outside.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let Some(build) = &self.0 else { return failure };
        match build.canceled() {
            Some(reason) if failure.code() == ErrorCode::Canceled => canceled(&reason),
            _ => failure.without(&format!("{}/", build.id())),
        }
    }

    /// Likewise for the end of a whole solve: whatever a cancelled one stumbled over, the cancellation is the reason. So is,
    /// where nobody gave one, that the builder is `stopping`.
    pub(crate) fn explain_end(&self, failure: Failure, stopping: bool) -> Failure {
        match self.0.as_ref().and_then(|build| build.canceled()) {
            Some(reason) => canceled(&reason),
            None if stopping && failure.code() == ErrorCode::Canceled => canceled(STOPPING),
            None => self.explain(failure),
        }
    }
}

/// A build that was cancelled from outside.
pub(super) fn canceled(reason: &str) -> Failure {
    Failure::new(ErrorCode::Canceled, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_build_begin_with_it() {
        let none = Scope::default();
        assert_eq!(none.name("ref"), "ref");
        assert_eq!(none.name("x:session"), "x:session");
        let scope = Scope::of(ServedBuild::new("b1"));
        assert_eq!(scope.name("ref"), "b1/ref");
        assert_eq!(scope.name("x:session"), "b1/session");
        assert_eq!(scope.name(""), "");
        assert_eq!((Scope::build_of("b1/ref"), Scope::build_of("ref")), ("b1", "ref"));
        // No reference of one build is another's, whatever it is called.
        assert_ne!(scope.name("../b2/ref"), Scope::of(ServedBuild::new("b2")).name("ref"));
    }

    #[test]
    fn the_reason_replaces_what_it_led_to() {
        let build = ServedBuild::new("b1");
        let scope = Scope::of(Arc::clone(&build));
        let failure = scope.explain(Failure::not_found("no such job b1/ref"));
        assert_eq!(failure.message(), "no such job ref");
        build.cancel("the project is gone");
        assert_eq!(scope.explain(Failure::canceled()).message(), "the project is gone");
        assert_eq!(scope.explain(Failure::unknown("exit 1")).message(), "exit 1");
        for stopping in [false, true] {
            let end = scope.explain_end(Failure::unknown("exit 1"), stopping);
            assert_eq!((end.message(), end.code()), ("the project is gone", ErrorCode::Canceled));
        }
    }

    #[test]
    fn a_builder_that_stops_says_so() {
        for scope in [Scope::default(), Scope::of(ServedBuild::new("b1"))] {
            let end = scope.explain_end(Failure::canceled(), true);
            assert_eq!((end.message(), end.code()), (STOPPING, ErrorCode::Canceled));
            assert_eq!(scope.explain_end(Failure::unknown("exit 1"), true).message(), "exit 1");
            let gone = scope.explain_end(Failure::canceled(), false);
            assert_eq!(gone.message(), "context canceled");
        }
    }
}
