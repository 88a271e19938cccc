//! A client of the server's API for the command line.
//!
//! [`ApiClient`] speaks Connect over HTTP/2: with prior knowledge to `http://` servers, by ALPN over TLS to `https://` ones.
//! Its answers are plain values that can be printed as JSON. This crate must never print, never store a token, and never
//! believe that text from a server is fit for a terminal: whoever shows it makes it so.

mod build_run;
mod builds;
mod client;
mod error;
mod images;
mod login;
mod logs;
mod page;
mod projects;
mod settings;
mod storage;
mod time;
mod tokens;
mod transport;
mod trust;
mod url;
mod usage;

pub use build_run::{BuildOrder, Connection, Endpoint, Outcome, RegistryLogin, StartedBuild};
pub use builds::{Build, BuildPlace, BuildStatus, NetworkConnection, Step};
pub use client::ApiClient;
pub use connectrpc::ErrorCode;
pub use error::ApiError;
pub use images::{Image, PullToken};
pub use login::{Organization, PendingLogin};
pub use logs::{LogCursor, LogLine};
pub use page::{Page, PageRequest};
pub use projects::{CachePolicy, Hardware, HardwareError, NewProject, Project, ProjectChange};
pub use settings::{NetworkPolicy, ProjectLimits, ProjectSettings, SettingsChange};
pub use storage::{DiskUse, ProjectStorage};
pub use tokens::{CreatedToken, Token};
pub use trust::{Provider, TrustPolicy};
pub use url::{ServerUrl, UrlError};
pub use usage::{BuildUsage, ProjectUsage, StorageUsage, Usage, Window};
