//! Spans of builds on their way to the collector that the operator named.
//!
//! A build of a server has one trace, whose ids follow from the build's own, so that server and builder agree on them without a
//! word. Nothing here waits for a collector, and nothing decides what a span is about.

mod collector;
mod config;
mod spans;

pub use collector::{Collector, CollectorError};
pub use config::{Otel, OtelProtocol, UnknownProtocol};
pub use spans::{BuildIds, text};
