//! A BuildKit client: solve, status, session, progress display.
//!
//! [`Client`] speaks `Control` to any BuildKit-compatible daemon, with the session's services of
//! [`cofferdam_session`]. [`progress`] shows what happens, [`options`] reads what a user asks
//! for. This crate must never print a secret or credential, and never let a step's output or a
//! daemon's text control the user's terminal.

mod address;
mod cache_dir;
mod connect;
mod error;
mod excerpt;
pub mod options;
pub mod progress;
mod solve;
mod status;
pub mod text;
mod tls;

pub use address::{Address, AddressError};
pub use cache_dir::{CacheDirError, CacheDirectories};
pub use connect::{Client, ConnectError};
pub use error::{SolveError, SourceLocation};
pub use excerpt::excerpt;
pub use solve::{CacheEntry, Exporter, Solve, Solved};
pub use status::{LogEntry, SolveStatus, StatusEntry, VertexEntry, WarningEntry};
pub use tls::{MutualTls, TlsError};
