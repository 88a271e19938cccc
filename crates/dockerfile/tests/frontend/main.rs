//! Whole builds: Dockerfiles and attributes in, graphs and configurations out.

#![allow(clippy::unwrap_used)]

mod agree;
mod contexts;
mod hostile;
mod instructions;
mod questions;
mod stages;
mod support;
