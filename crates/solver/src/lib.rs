//! Schedules a graph: cache keys, lookup, concurrency, cancellation, progress.
//!
//! A [`Solver`] belongs to one builder. Each build opens a [`Job`] and asks it for outputs of
//! vertices; what an op means, where results live and how they are kept is the business of the
//! [`Runtime`]. This crate must never look at what kind of op a vertex holds, never read an
//! output, and never see a secret: all it handles are digests and names.
//!
//! # What a vertex is called
//!
//! Five names with five purposes; mixing them up is how a build cache goes wrong.
//!
//! * The **vertex digest** names an op exactly as a client wrote it. It finds work that is under
//!   way right now, so that concurrent builds of the same vertex share one execution. It is not a
//!   cache key: a client's session id or nonce may be part of it.
//! * The **definition key** is `H(op digest, for each input: definition key, output, selector)`,
//!   where the op digest comes from [`Runtime::cache_map`]. It can be computed without touching
//!   any input, so it is looked up first, starting at the target: a hit needs nothing below.
//! * The **lineage** stands in for the definition key above something volatile: it is made like a
//!   definition key, except that an input without one is represented by the digest of what the op
//!   looks at in it. Only volatile inputs are read for that. It finds a result whose own inputs
//!   were never kept, such as the last stage of an imported cache.
//! * The **content key** is `H(op digest, for each input: identity, output, selector)`, except that
//!   an input that is used *by content* is represented by the digest of what the op looks at. It
//!   needs the inputs to be there, and finds results when inputs changed in ways that the op
//!   cannot see.
//! * The **identity** of a result is the content key it was first stored under. Other keys that
//!   lead to it are aliases. A consumer's key is made of identities, so results that were found
//!   over different ways still give the consumer one key.
//!
//! Definition keys and content keys are made by one function over the same fields: when every
//! identity below equals its definition key, both are equal and no alias is needed.
//!
//! # What must not hit
//!
//! * A **volatile** op (a client's local directory) has a digest that says nothing about what it
//!   yields. It has no definition key, and so has everything above it, until a consumer that uses
//!   it by content turns it into a content key. Its result is neither looked up nor stored, nor
//!   is any result that depends on it in another way than by content.
//! * A vertex that **ignores the cache** runs, and stores what it made under its usual keys, where
//!   it replaces what was there. Its identity is therefore the same as that of the older result
//!   that its consumers may have been built from. Consumers are told that it was *forced*: they
//!   do not look up keys made of its identity, and are forced themselves when they run. Content
//!   that turns out equal ends this.
//!
//! # How it runs
//!
//! Every vertex that some job holds is one shared value with three stages, each run by at most one
//! task: its keys, its lineage, its result. (A fourth makes a result whole when a cache had some of its
//! outputs and another one is wanted.) Tasks wait for the stages of their inputs; nothing recurses, so
//! depth costs memory but no stack, and the graph being acyclic there is no deadlock. The limit on
//! parallelism applies to [`Runtime::execute`] only. Two vertices with different digests and the
//! same content key do not execute at the same time: the second waits and finds the first's
//! result.
//!
//! A job holds its vertices until it is closed. When the last job that holds a vertex leaves, the
//! vertex is forgotten and its tasks are cancelled; the futures of the runtime are dropped at
//! their next await. A job that comes later starts afresh, as it does for a vertex that failed
//! before the job came.

mod clip;
mod error;
mod evaluate;
mod event;
mod job;
mod journal;
mod key;
mod runtime;
mod shared;
mod solver;
mod stream;

pub use error::{ErrorCode, JobError, SolveError, StepError};
pub use event::{
    Event, LogChunk, LogStream, Status, StatusUpdate, VertexState, Warning, WarningUpdate,
};
pub use job::Job;
pub use journal::VertexLog;
pub use runtime::{CacheInput, CacheMap, Cached, RecordMeta, Runtime, Step};
pub use solver::{LogLimits, Options, Places, Solver};
pub use stream::EventStream;
