//! What commands print: tables, JSON, times.
//!
//! Text of servers, builds and steps never reaches a terminal from here without having passed
//! [`cofferdam_client::text`]. What was asked for goes to standard output, everything said about it to standard error.

mod format;
mod listing;
mod style;
mod table;

use std::io::{self, Write};

use cofferdam_client::text;
use serde::Serialize;

pub(crate) use format::{bytes, duration, moment, seconds};
pub(crate) use listing::Listing;
pub(crate) use style::{Paint, Style};
pub(crate) use table::Table;

/// Standard output that takes nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrintError {
    /// Whoever reads it has enough.
    #[error("standard output is closed")]
    Closed,
    /// It is full, or broken.
    #[error("write to standard output")]
    Failed(#[source] io::Error),
}

/// Writes what was asked for. The text is trusted: its parts were made safe when it was put together.
pub(crate) fn print(text: &str) -> Result<(), PrintError> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => PrintError::Closed,
        _ => PrintError::Failed(error),
    })
}

/// Writes a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", text::json(&serde_json::to_string_pretty(value)?)))?;
    Ok(())
}

/// Writes a value as JSON on one line.
pub(crate) fn print_json_line(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", text::json(&serde_json::to_string(value)?)))?;
    Ok(())
}

/// Says something about what was asked for, in one line.
pub(crate) fn note(line: &str) {
    // A closed standard error has nobody to tell.
    writeln!(io::stderr(), "{}", text::single_line(line)).ok();
}
