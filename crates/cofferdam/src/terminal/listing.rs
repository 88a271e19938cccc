//! A long list on its way out, part by part: as a table, or as one JSON array.

use cofferdam_client::text;
use serde::Serialize;

use super::{Table, note, print};

/// A list that is being printed.
pub(crate) struct Listing {
    json: bool,
    table: Table,
    count: usize,
}

impl Listing {
    /// A list with these columns, unless it is JSON.
    pub(crate) fn new(json: bool, columns: &[&'static str]) -> Self {
        Self { json, table: Table::new(columns), count: 0 }
    }

    /// Prints more of it.
    pub(crate) fn add<T: Serialize>(
        &mut self,
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        print(&self.part(items, row)?)?;
        Ok(())
    }

    fn part<T: Serialize>(
        &mut self,
        items: &[T],
        row: impl Fn(&T) -> Vec<String>,
    ) -> anyhow::Result<String> {
        let mut out = String::new();
        for item in items {
            if self.json {
                out.push_str(if self.count == 0 { "[\n  " } else { ",\n  " });
                out.push_str(&text::json(&serde_json::to_string(item)?));
            } else {
                self.table.row(row(item));
            }
            self.count += 1;
        }
        if !self.json && !items.is_empty() {
            out = self.table.take();
        }
        Ok(out)
    }

    /// Prints the end; says `nothing` about a table without rows.
    pub(crate) fn finish(self, nothing: &str) -> anyhow::Result<()> {
        match (self.json, self.count) {
            (true, 0) => print("[]\n")?,
            (true, _) => print("\n]\n")?,
            (false, 0) => note(nothing),
            (false, _) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_make_one_array() {
        let mut listing = Listing::new(true, &["A"]);
        let mut out = listing.part(&["x", "\u{9b}"], |_| vec![]).unwrap();
        out.push_str(&listing.part::<&str>(&[], |_| vec![]).unwrap());
        out.push_str(&listing.part(&["z"], |_| vec![]).unwrap());
        assert_eq!(out, "[\n  \"x\",\n  \"\\u009b\",\n  \"z\"");
    }

    #[test]
    fn parts_make_one_table() {
        let mut listing = Listing::new(false, &["A"]);
        let part = |listing: &mut Listing, item: &str| {
            listing.part(&[item], |item| vec![(*item).to_owned()]).unwrap()
        };
        assert_eq!(part(&mut listing, "x"), "A\nx\n");
        assert_eq!(part(&mut listing, "y"), "y\n");
    }
}
