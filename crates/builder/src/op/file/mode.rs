//! File modes as `--chmod` gives them: octal, or symbolic clauses as in `chmod(1)`
//! (`u=rwX,go=rX`). Pure arithmetic on permission bits; touches no files.

/// What to do with the permission bits of a copied file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModeChange {
    /// Keep those of the source.
    Keep,
    /// Set exactly these bits.
    Set(u32),
    /// Apply symbolic clauses to those of the source.
    Symbolic(Vec<Clause>),
}

/// One symbolic clause: who, operator, permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clause {
    who: u32,
    operator: u8,
    bits: u32,
    conditional_execute: bool,
    copy_from: Option<u8>,
}

/// A mode text that is neither octal nor symbolic.
#[derive(Debug, thiserror::Error)]
#[error("invalid mode {0:?}: expected octal digits or clauses like u=rwX,go=rX")]
pub(crate) struct ParseModeError(String);

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl ModeChange {
    /// Parses octal digits or comma-separated clauses.
    pub(super) fn parse(text: &str) -> Result<Self, ParseModeError> {
        let error = || ParseModeError(text.to_owned());
        if let Ok(mode) = u32::from_str_radix(text, 8) {
            return if mode <= 0o7777 { Ok(Self::Set(mode)) } else { Err(error()) };
        }
        text.split(',')
            .map(|clause| parse_clauses(clause).ok_or_else(error))
            .collect::<Result<Vec<_>, _>>()
            .map(|clauses| Self::Symbolic(clauses.concat()))
    }

    /// The permission bits for a file that has `mode`.
    pub(super) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Keep => mode & 0o7777,
            Self::Set(bits) => *bits,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_directory))
            }
        }
    }

    /// The bits for directories made on the way to a destination.
    pub(super) const fn for_new_parents(&self) -> u32 {
        match self {
            Self::Set(bits) => *bits,
            Self::Keep | Self::Symbolic(_) => 0o755,
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.conditional_execute && (is_directory || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(from) = self.copy_from {
            let triple = match from {
                b'u' => mode >> 6,
                b'g' => mode >> 3,
                _ => mode,
            } & 0o7;
            bits |= triple << 6 | triple << 3 | triple;
        }
        let bits = bits & self.who;
        match self.operator {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => {
                mode & !(self.who & 0o777 | self.who & 0o6000 & !directory_keep(is_directory))
                    | bits
            }
        }
    }
}

/// `=` leaves set-id bits of directories alone, as GNU chmod does.
const fn directory_keep(is_directory: bool) -> u32 {
    if is_directory { 0o6000 } else { 0 }
}

fn parse_clauses(text: &str) -> Option<Vec<Clause>> {
    let bytes = text.as_bytes();
    let operators = bytes.iter().position(|byte| b"+-=".contains(byte))?;
    let mut who = 0;
    for byte in &bytes[..operators] {
        who |= match byte {
            b'u' => USER,
            b'g' => GROUP,
            b'o' => OTHER,
            b'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut clauses = Vec::new();
    let mut at = operators;
    while at < bytes.len() {
        let operator = bytes[at];
        at += 1;
        let mut clause =
            Clause { who, operator, bits: 0, conditional_execute: false, copy_from: None };
        while at < bytes.len() && !b"+-=".contains(&bytes[at]) {
            match bytes[at] {
                b'r' => clause.bits |= 0o444,
                b'w' => clause.bits |= 0o222,
                b'x' => clause.bits |= 0o111,
                b'X' => clause.conditional_execute = true,
                b's' => clause.bits |= 0o6000,
                b't' => clause.bits |= 0o1000,
                from @ (b'u' | b'g' | b'o') => clause.copy_from = Some(from),
                _ => return None,
            }
            at += 1;
        }
        clauses.push(clause);
    }
    Some(clauses)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modes_apply_like_chmod() {
        for (text, mode, directory, expected) in [
            ("0644", 0o755, false, 0o644),
            ("7777", 0o644, false, 0o7777),
            ("u=rwX,go=rX", 0o640, false, 0o644),
            ("u=rwX,go=rX", 0o740, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("go-rwx", 0o777, false, 0o700),
            ("o+t", 0o777, true, 0o1777),
        ] {
            assert_eq!(ModeChange::parse(text).unwrap().apply(mode, directory), expected, "{text}");
        }
        for text in ["", "8", "64a", "u", "u=q", "17777", "z+x"] {
            assert!(ModeChange::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
