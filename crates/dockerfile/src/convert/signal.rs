//! Names of signals, for `STOPSIGNAL`.

/// Signals of Linux, without `SIG`.
const SIGNALS: [&str; 37] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "UNUSED", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
    "RTMAX",
];

/// Text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: {0}")]
pub struct SignalError(String);

/// Accepts a number, or a name with or without `SIG`, in any case.
pub(super) fn check(text: &str) -> Result<(), SignalError> {
    let known = match text.parse::<i32>() {
        Ok(number) => number != 0,
        Err(_) => is_name(&text.to_uppercase()),
    };
    if known { Ok(()) } else { Err(SignalError(text.to_owned())) }
}

fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let offset = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse::<u8>().ok());
    SIGNALS.contains(&name)
        || offset("RTMIN+").is_some_and(|offset| (1..=15).contains(&offset))
        || offset("RTMAX-").is_some_and(|offset| (1..=14).contains(&offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["9", "SIGTERM", "term", "RTMIN+3", "SIGRTMAX-14"] {
            assert_eq!(check(text), Ok(()));
        }
        for text in ["", "0", "FOO", "SIGSIGTERM", "RTMIN+99", "RTMIN+"] {
            assert!(check(text).is_err(), "{text:?} was accepted");
        }
    }
}
