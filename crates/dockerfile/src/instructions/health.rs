//! `HEALTHCHECK`.

use std::time::Duration;

use super::flags::{Flags, Known, Takes};
use super::run::shell_words;
use super::{ArgumentError, Healthcheck, InstructionError};
use crate::parser::Node;
use crate::scalar::{DurationError, parse_duration};

const FLAGS: &Known = &[
    ("interval", Takes::Value),
    ("timeout", Takes::Value),
    ("start-period", Takes::Value),
    ("start-interval", Takes::Value),
    ("retries", Takes::Value),
];
/// The shortest duration the image format can express apart from zero.
const SHORTEST: Duration = Duration::from_millis(1);

/// A `HEALTHCHECK` that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// `NONE` with a command.
    #[error("HEALTHCHECK NONE takes no arguments")]
    NoneWithArguments,
    /// `CMD` without a command.
    #[error("Missing command after HEALTHCHECK CMD")]
    NoCommand,
    /// Neither `NONE` nor `CMD`.
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    Kind(String),
    /// Not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// A duration below a millisecond.
    #[error("Interval {0:?} cannot be less than 1ms")]
    TooShort(&'static str),
    /// Not a number of 31 bits.
    #[error("--retries is not a number: {0:?}")]
    Retries(String),
    /// A number below zero.
    #[error("--retries cannot be negative ({0})")]
    NegativeRetries(i32),
}

pub(super) fn healthcheck(node: &Node) -> Result<Healthcheck, InstructionError> {
    let Some((kind, arguments)) = node.arguments.split_first() else {
        return Err(ArgumentError::AtLeastOne("HEALTHCHECK").into());
    };
    let kind = kind.to_uppercase();
    if kind == "NONE" {
        if !arguments.is_empty() {
            return Err(HealthError::NoneWithArguments.into());
        }
        return Ok(Healthcheck { test: vec![kind], ..Healthcheck::default() });
    }
    let flags = Flags::read(&node.flags, FLAGS)?;
    if kind != "CMD" {
        return Err(HealthError::Kind(kind).into());
    }
    let mut test = shell_words(arguments, node.json);
    if test.is_empty() {
        return Err(HealthError::NoCommand.into());
    }
    test.insert(0, if node.json { kind } else { "CMD-SHELL".to_owned() });
    Ok(Healthcheck {
        test,
        interval: interval(&flags, "interval")?,
        timeout: interval(&flags, "timeout")?,
        start_period: interval(&flags, "start-period")?,
        start_interval: interval(&flags, "start-interval")?,
        retries: retries(&flags.value("retries"))?,
    })
}

fn interval(flags: &Flags, name: &'static str) -> Result<Duration, HealthError> {
    let text = flags.value(name);
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    match parse_duration(&text)? {
        Some(duration) if duration.is_zero() || duration >= SHORTEST => Ok(duration),
        _ => Err(HealthError::TooShort(name)),
    }
}

fn retries(text: &str) -> Result<u32, HealthError> {
    if text.is_empty() {
        return Ok(0);
    }
    let number: i32 = text.parse().map_err(|_| HealthError::Retries(text.to_owned()))?;
    u32::try_from(number).map_err(|_| HealthError::NegativeRetries(number))
}
