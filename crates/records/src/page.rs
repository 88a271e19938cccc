//! Pages of lists, by keyset: a token holds the position after the last item, so that pages stay right while items are added
//! before it, and cost the same however far they are.
//!
//! A token is bound to its list. It is no secret and grants nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::error::RecordsError;

/// Form of tokens; others are refused.
const VERSION: u8 = 1;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 1024;

/// Which page is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageRequest<'a> {
    /// Items; none or 0: the list's default. More than its largest: the largest.
    pub size: Option<i32>,
    /// The token of the page before; none or empty: the first page.
    pub token: Option<&'a str>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// Its items.
    pub items: Vec<T>,
    /// The token of the next page; none after the last.
    pub next: Option<String>,
}

/// Bounds of a list's pages.
pub(crate) struct Bounds {
    pub(crate) default: u32,
    pub(crate) most: u32,
}

/// A position in a list.
#[derive(Serialize, Deserialize)]
struct Cursor {
    v: u8,
    /// Which list, with what it is of.
    l: String,
    /// The order's number, and a text that tells equals apart.
    n: i64,
    t: String,
}

/// A page request that has been understood.
pub(crate) struct Asked {
    /// Items to return.
    pub(crate) size: usize,
    /// Position to go on after.
    pub(crate) after: Option<(i64, String)>,
    list: String,
}

impl Asked {
    /// Reads a request for pages of a list.
    pub(crate) fn read(
        request: PageRequest<'_>,
        list: String,
        bounds: &Bounds,
    ) -> Result<Self, RecordsError> {
        let size = match request.size {
            None | Some(0) => bounds.default,
            Some(size) => u32::try_from(size).map_err(|_| RecordsError::PageSize)?.min(bounds.most),
        };
        let token = request.token.filter(|token| !token.is_empty());
        let after = token.map(|token| position(token, &list)).transpose()?;
        Ok(Self { size: size as usize, after, list })
    }

    /// How many rows to ask for: one more tells whether there is a next page.
    pub(crate) fn limit(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX - 1) + 1
    }

    /// The page of what was found with [`Asked::limit`].
    pub(crate) fn page<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> (i64, String)) -> Page<T> {
        let more = items.len() > self.size;
        items.truncate(self.size);
        let next = more.then(|| items.last().map(&key)).flatten().map(|(n, t)| self.token(n, t));
        Page { items, next }
    }

    /// The token of what comes after a position.
    pub(crate) fn token(&self, n: i64, t: String) -> String {
        let cursor = Cursor { v: VERSION, l: self.list.clone(), n, t };
        // Numbers and texts always have a JSON form.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
    }
}

fn position(token: &str, list: &str) -> Result<(i64, String), RecordsError> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(token.get(..MAX_TOKEN.min(token.len()))?).ok()?;
        let cursor: Cursor = serde_json::from_slice(&bytes).ok()?;
        (cursor.v == VERSION && cursor.l == list).then_some((cursor.n, cursor.t))
    };
    read().ok_or(RecordsError::PageToken)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BOUNDS: Bounds = Bounds { default: 2, most: 3 };

    fn asked(size: Option<i32>, token: Option<&str>) -> Result<Asked, RecordsError> {
        Asked::read(PageRequest { size, token }, "list:p".into(), &BOUNDS)
    }

    #[test]
    fn sizes_are_bounded() {
        for (size, expected) in
            [(None, 2), (Some(0), 2), (Some(1), 1), (Some(3), 3), (Some(i32::MAX), 3)]
        {
            assert_eq!(asked(size, None).unwrap().size, expected);
        }
        assert!(matches!(asked(Some(-1), None), Err(RecordsError::PageSize)));
    }

    #[test]
    fn pages_end() {
        let asked = asked(Some(2), Some("")).unwrap();
        let key = |item: &i64| (*item, String::new());
        let page = asked.page(vec![1, 2, 3], key);
        assert_eq!(page.items, [1, 2]);
        let next = self::asked(Some(2), page.next.as_deref()).unwrap();
        assert_eq!(next.after, Some((2, String::new())));
        assert_eq!(next.page(vec![3], key), Page { items: vec![3], next: None });
    }

    #[test]
    fn tokens_of_other_lists_and_other_texts_are_refused() {
        let other = Asked::read(PageRequest::default(), "list:q".into(), &BOUNDS).unwrap();
        let foreign = other.token(1, "x".into());
        let long = "A".repeat(5000);
        let newer = URL_SAFE_NO_PAD.encode(r#"{"v":2,"l":"list:p","n":1,"t":""}"#);
        let texts = ["x", "äöü", "////", "e30", foreign.as_str(), long.as_str(), newer.as_str()];
        for token in texts {
            assert!(matches!(asked(None, Some(token)), Err(RecordsError::PageToken)), "{token}");
        }
    }
}
