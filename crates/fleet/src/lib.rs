//! Builders as processes: one per project that builds and level of isolation, started on demand, ended when idle.
//!
//! A [`Fleet`] starts `cofferdam builder` for a project, in an id range, a root and control groups that no other project has, and
//! gives out a [`Lease`] on it. Through a lease come connections whose bytes belong to one build, everything that happens in a
//! build as it happens, and the words to cancel or close one. A builder without leases ends after a while; one that dies is
//! reported to all who hold a lease on it.
//!
//! ```text
//! <data dir>/projects/<project>/builder/   a builder's root: its store, owned by the project's ids
//!                              /run/       its socket and configuration; root's alone
//!                              /builder-vm/ and /run-vm/, likewise for other levels of isolation
//!            trash/<name>                  what is being deleted
//! ```
//!
//! It knows what each root takes of the disk, also of those whose builder does not run, and makes caches smaller when it is told to.
//!
//! Nothing here reads what a tenant wrote, except the bounded messages of `cofferdam.builder.v1`; nothing here follows a link in
//! a tenant's tree. Builders end with the process that holds the fleet: they watch a pipe of it.

mod control;
mod error;
mod fleet;
mod keep;
mod lease;
mod leftovers;
mod messages;
mod observed;
mod places;
mod process;
mod removal;
mod said;
mod settings;
mod sizes;
mod spec;
mod walk;

pub use cofferdam_sandbox::{Isolation, IsolationError};
pub use control::Watch;
pub use error::FleetError;
pub use fleet::{Fleet, FleetOptions};
pub use keep::{Collected, Keep, Root};
pub use lease::{Lease, Timing};
pub use observed::Observed;
pub use sizes::Size;
pub use spec::{Clamped, ProjectSpec, Resources};
