//! Starts processes of images that buildpacks made.
//!
//! Two programs for places that are not ours: `launcher` lies in app images and becomes the app's
//! process; `attempt` runs in sandboxes of builds and writes down how another program ended. Both are
//! small and static, run as whoever the image says, and have no rights of their own: what they
//! read belongs to the same image as what they start. They must never need a file that an image may
//! lack, save bash for shell commands.

mod attempt;
mod environment;
mod error;
mod execd;
mod launch;
mod layers;
mod select;
mod shell;

pub use attempt::attempt;
pub use launch::launch;
