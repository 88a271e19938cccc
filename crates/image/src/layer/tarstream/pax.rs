//! PAX extended headers: `"<length> <key>=<value>\n"` records, strictly.

use crate::layer::limits::MAX_XATTRS;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records that mean something here.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, &'static str> {
        let mut pax = Self::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut xattr_bytes = 0;
        while !body.is_empty() {
            let (key, value, rest) = record(body)?;
            body = rest;
            if !seen.insert(key) {
                return Err("an extended header has a key twice");
            }
            if let Some(name) = key.strip_prefix(XATTR) {
                xattr_bytes += name.len() + value.len();
                if xattr_bytes > MAX_XATTRS {
                    return Err("the extended attributes are too large");
                }
                if name.is_empty() || name.contains(&0) {
                    return Err("an extended attribute has a malformed name");
                }
                pax.xattrs.push((name.to_vec(), value.to_vec()));
            } else {
                pax.set(key, value)?;
            }
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if key.starts_with(b"GNU.sparse.") {
            return Err("sparse entries are not supported");
        }
        // An empty value takes the record back; the plain header counts.
        if value.is_empty() {
            return Ok(());
        }
        match key {
            b"path" | b"linkpath" if value.contains(&0) => {
                return Err("a name contains a NUL byte");
            }
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {}
        }
        Ok(())
    }

    /// Whether these records would change what entries there are, were they applied to all.
    pub(super) const fn changes_framing(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.size.is_some() || !self.xattrs.is_empty()
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(body: &[u8]) -> Result<Record<'_>, &'static str> {
    const BAD: &str = "an extended header record is malformed";
    let space = body.iter().take(20).position(|&byte| byte == b' ').ok_or(BAD)?;
    let length = usize::try_from(number(&body[..space])?).map_err(|_| BAD)?;
    if length > body.len() || length <= space + 1 || body[length - 1] != b'\n' {
        return Err(BAD);
    }
    let text = &body[space + 1..length - 1];
    let equals = text.iter().position(|&byte| byte == b'=').ok_or(BAD)?;
    if equals == 0 {
        return Err(BAD);
    }
    Ok((&text[..equals], &text[equals + 1..], &body[length..]))
}

fn number(text: &[u8]) -> Result<u64, &'static str> {
    const BAD: &str = "a number in an extended header is malformed";
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    std::str::from_utf8(text).map_err(|_| BAD)?.parse().map_err(|_| BAD)
}

/// `[-]seconds[.fraction]` as seconds and nanoseconds, the latter always counting up.
fn time(text: &[u8]) -> Result<(i64, u32), &'static str> {
    const BAD: &str = "a time in an extended header is malformed";
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let seconds = i64::try_from(number(whole)?).map_err(|_| BAD)?;
    let nanos = fraction
        .iter()
        .chain(std::iter::repeat(&b'0'))
        .take(9)
        .fold(0, |sum: u32, &digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records() {
        let pax =
            Pax::parse(b"11 path=ab\n12 size=123\n22 SCHILY.xattr.u.a=b\n18 mtime=-1.25000\n")
                .unwrap();
        assert_eq!(pax.path.unwrap(), b"ab");
        assert_eq!(pax.size, Some(123));
        assert_eq!(pax.xattrs, [(b"u.a".to_vec(), b"b".to_vec())]);
        assert_eq!(pax.mtime, Some((-2, 750_000_000)));
    }

    #[test]
    fn hostile_records_are_refused() {
        for body in [
            &b"11 path=ab"[..],
            b"11 path=ab\n11 path=ab\n",
            b"99 path=ab\n",
            b"0 path=ab\n",
            b"3 \n\n",
            b"6 =ab\n",
            b"12 path=a\0b\n",
            b"13 size=-12\n\n",
            b"99999999999999999999999 path=a\n",
            b"-1 path=ab\n",
            b"24 GNU.sparse.major=1.0\n",
        ] {
            assert!(Pax::parse(body).is_err(), "{body:?} was accepted");
        }
    }
}
