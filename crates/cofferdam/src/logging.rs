//! Where the messages of a server's and a builder's processes go: standard error, as text or as one JSON object a line.

mod line;

use std::io::IsTerminal;
use std::str::FromStr;

use anyhow::bail;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use self::line::OneObject;

/// How much is logged. Dependencies always log less than our own code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Level {
    /// Only what made something fail.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The name as configuration and arguments write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    const fn filter(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "warn,cofferdam=info",
            Self::Debug => "warn,cofferdam=debug",
            Self::Trace => "debug,cofferdam=trace",
        }
    }
}

impl FromStr for Level {
    type Err = anyhow::Error;

    /// The names above and those that BuildKit's daemon takes as well.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Self::Error,
            "warn" | "warning" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" => Self::Trace,
            _ => bail!("invalid log level {text:?}: use error, warn, info, debug or trace"),
        })
    }
}

/// The shape of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Format {
    /// The name as configuration and arguments write it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => bail!("invalid log format {text:?}: use text or json"),
        }
    }
}

/// Starts logging in this process. To be called once; starts no thread.
pub(crate) fn start(level: Level, format: Format) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level.filter()))
        // A message that cannot be written, to a full disk as a rule, is lost. Complaining about it in the same place would fail too,
        // and end whatever had something to say.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().event_format(OneObject).init(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_back() {
        for level in Level::value_variants() {
            assert_eq!(level.name().parse::<Level>().unwrap(), *level);
        }
        for format in Format::value_variants() {
            assert_eq!(format.name().parse::<Format>().unwrap(), *format);
        }
        assert_eq!("WARNING".parse::<Level>().unwrap(), Level::Warn);
        assert!("loud".parse::<Level>().is_err());
        assert!("xml".parse::<Format>().is_err());
    }
}
