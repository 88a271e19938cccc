//! Server-rendered pages: values in, HTML out.
//!
//! Each page is a struct whose fields are everything it shows; `render` turns it into one HTML
//! document that works without JavaScript. This crate knows no database, no network and no
//! request; who may see a page was decided before its struct was filled.
//!
//! Whatever a build can influence (names, logs, errors, hosts) is hostile here. It reaches a
//! document only through the template engine's escaping or through the private `text` and `ansi`
//! modules, which are the only places that make markup out of text. [`SECURITY_HEADERS`] are the
//! second wall: even an element that slipped through could not run or load anything.

mod account;
mod ansi;
mod assets;
mod build;
mod failure;
mod format;
mod frame;
mod headers;
mod lists;
mod network;
mod paths;
mod step;
mod text;
mod waterfall;

pub use account::{ApprovePage, ApprovedPage, SignInPage};
pub use ansi::fuzz_log;
pub use assets::{ASSET_CACHE_CONTROL, Asset, FAVICON, asset};
pub use build::{Audience, BuildPage, BuildView, MAX_OTHER_CONNECTIONS, MAX_STEPS, Status};
pub use failure::ErrorPage;
pub use frame::{ProjectRef, Viewer};
pub use headers::{PAGE_HEADERS, SECURITY_HEADERS};
pub use lists::{BuildsPage, Pager, ProjectView, ProjectsPage};
pub use network::{ConnectionView, MAX_CONNECTION_ROWS};
pub use paths::{
    APPROVE_TOKEN_FIELD, ASSETS, NEXT_FIELD, PAGE_FIELD, PROJECTS, REFRESH_FIELD, REFRESH_OFF,
    SIGN_IN, SIGN_OUT, TOKEN_FIELD, approve_path, build_path, project_path, shared_log_path,
    shared_path, sign_in_path, step_log_path,
};
pub use step::{LogLine, LogView, MAX_LINE_CHARS, MAX_LOG_LINES, StepView};
