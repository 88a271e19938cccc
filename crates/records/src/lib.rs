//! The server's records: organizations, projects, tokens, builds, steps, logs and the registry's index.
//!
//! Records are an SQLite database (`records.db`) and, for logs, files beside it (`logs/`). Every row carries its project, or its
//! organization where there is no project. What is created or ended here is on the disk when the call returns; what a running
//! build reports may be lost with the machine's power for the last moments.
//!
//! This room decides nothing about who may see what, and keeps no secret: tokens are stored as hashes that others make.

mod backup;
mod builds;
mod check;
mod connections;
mod error;
mod expire;
mod id;
mod images;
mod logs;
mod manifests;
mod organizations;
mod page;
mod projects;
mod records;
mod removal;
mod repositories;
mod row;
mod schema;
mod shares;
mod steps;
mod storage;
mod tokens;
mod trust;
mod usage;

pub use builds::{Build, BuildStatus, NewBuild};
pub use check::CheckReport;
pub use connections::ConnectionRecord;
pub use error::RecordsError;
pub use expire::{Expired, KeepBuilds};
pub use images::ImageRow;
pub use logs::{LogEntry, LogLine};
pub use manifests::{ManifestRow, Reference};
pub use organizations::Organization;
pub use page::{Page, PageRequest};
pub use projects::{
    CachePolicy, NewProject, Project, ProjectChange, ProjectState, Walls, WallsChange,
};
pub use records::Records;
pub use steps::{Step, StepUpdate};
pub use storage::ProjectStorage;
pub use tokens::{NewToken, Token, TokenKind};
pub use trust::{Provider, TrustPolicy};
pub use usage::ProjectUsage;
