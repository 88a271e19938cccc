//! The registry over real connections: raw requests for what the specification says, and the
//! clients people use.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blobs;
mod clients;
mod collect;
mod crash;
mod docker;
mod fixture;
mod hostile;
mod http1;
mod images;
mod manifests;
mod server;
mod stream;
mod uploads;
