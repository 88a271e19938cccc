//! The network record of a step: where it connected to, and what was denied.
//!
//! Connections to the same place are one row, denied ones first, so that a step which opens
//! thousands still reads at a glance.

use std::collections::HashMap;

use askama::Template;
use chrono::{DateTime, Utc};

use crate::format;
use crate::text::{Markup, shown, shown_within};

/// The most rows of one table; a step that connects to more places than this is not read by eye.
pub const MAX_CONNECTION_ROWS: usize = 200;

/// The longest name that the domain name system knows, with room for names that were made up.
const MAX_HOST_CHARS: usize = 256;

/// A connection that a step opened or tried to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionView {
    /// How the step talked: `tcp`, `udp`, `dns`.
    pub protocol: String,
    /// The name that was asked for; empty if there was none.
    pub host: String,
    /// The address that was connected to; empty if it never came to that.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Whether the rules allowed it.
    pub allowed: bool,
    /// Bytes from the step.
    pub sent: u64,
    /// Bytes to the step.
    pub received: u64,
    /// When it was opened.
    pub opened_at: DateTime<Utc>,
}

/// The table of `network.html`.
#[derive(Template)]
#[template(path = "network.html")]
pub(crate) struct Table {
    /// What it is the record of, for those who do not see where it stands.
    pub(crate) caption: Markup,
    rows: Vec<Row>,
    /// How many rows there was no room for, and how many of those were denied.
    left_out: Option<(String, String)>,
}

/// Connections to one place.
struct Row {
    allowed: bool,
    host: Markup,
    address: Markup,
    more_addresses: usize,
    port: u16,
    protocol: Markup,
    connections: String,
    sent: String,
    received: String,
    opened: String,
}

/// How many connections there were and how many of them were denied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    connections: u64,
    denied: u64,
}

impl Totals {
    /// Counts connections.
    pub(crate) fn of<'a>(connections: impl IntoIterator<Item = &'a ConnectionView>) -> Totals {
        connections.into_iter().fold(Totals::default(), |totals, connection| Totals {
            connections: totals.connections + 1,
            denied: totals.denied + u64::from(!connection.allowed),
        })
    }

    /// Whether there were none.
    pub(crate) fn is_empty(self) -> bool {
        self.connections == 0
    }

    /// Whether any was denied.
    pub(crate) fn any_denied(self) -> bool {
        self.denied > 0
    }

    /// The number of connections.
    pub(crate) fn connections(self) -> String {
        format::count(self.connections)
    }

    /// The number of denied ones.
    pub(crate) fn denied(self) -> String {
        format::count(self.denied)
    }
}

/// What makes connections one row.
#[derive(PartialEq, Eq, Hash)]
struct Place<'a> {
    allowed: bool,
    /// The host, or the address where there is none.
    name: &'a str,
    port: u16,
    protocol: &'a str,
}

struct Group<'a> {
    connections: Vec<&'a ConnectionView>,
}

impl Table {
    /// The table of `connections` with at most `most` rows; `start` is what times count from.
    /// `None`: nothing to show.
    pub(crate) fn new(
        caption: Markup,
        connections: &[ConnectionView],
        start: DateTime<Utc>,
        most: usize,
    ) -> Option<Table> {
        if connections.is_empty() {
            return None;
        }
        let groups = grouped(connections);
        let most = most.min(MAX_CONNECTION_ROWS);
        let left_out = groups.get(most..).filter(|rest| !rest.is_empty()).map(|rest| {
            let denied = rest.iter().filter(|group| !group.connections[0].allowed).count();
            (format::counted(rest.len() as u64, "more place"), format::count(denied as u64))
        });
        let rows = groups.iter().take(most).map(|group| row(group, start)).collect();
        Some(Table { caption, rows, left_out })
    }

    /// How many rows it takes.
    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }
}

impl askama::filters::HtmlSafe for Table {}

/// Groups in the order of their first connection, denied ones before allowed ones. No group is
/// empty.
fn grouped(connections: &[ConnectionView]) -> Vec<Group<'_>> {
    let mut places: HashMap<Place<'_>, usize> = HashMap::new();
    let mut groups: Vec<Group<'_>> = Vec::new();
    for connection in connections {
        let name = if connection.host.is_empty() { &connection.address } else { &connection.host };
        let place = Place {
            allowed: connection.allowed,
            name,
            port: connection.port,
            protocol: &connection.protocol,
        };
        let index = *places.entry(place).or_insert(groups.len());
        match groups.get_mut(index) {
            Some(group) => group.connections.push(connection),
            None => groups.push(Group { connections: vec![connection] }),
        }
    }
    groups.sort_by_key(|group| group.connections[0].allowed);
    groups
}

fn row(group: &Group<'_>, start: DateTime<Utc>) -> Row {
    let first = group.connections[0];
    let mut addresses: Vec<&str> = group.connections.iter().map(|c| c.address.as_str()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let sum = |bytes: fn(&ConnectionView) -> u64| {
        let total = group.connections.iter().fold(0_u64, |sum, c| sum.saturating_add(bytes(c)));
        format::bytes(total)
    };
    Row {
        allowed: first.allowed,
        host: shown_within(&first.host, MAX_HOST_CHARS),
        address: shown(&first.address),
        more_addresses: addresses.len() - 1,
        port: first.port,
        protocol: shown_within(&first.protocol, 16),
        connections: format::count(group.connections.len() as u64),
        sent: sum(|connection| connection.sent),
        received: sum(|connection| connection.received),
        opened: format::duration(format::between(start, first.opened_at)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn connection(host: &str, address: &str, allowed: bool) -> ConnectionView {
        ConnectionView {
            protocol: "tcp".into(),
            host: host.into(),
            address: address.into(),
            port: 443,
            allowed,
            sent: 1_000,
            received: 2_000,
            opened_at: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        }
    }

    fn table(connections: &[ConnectionView], most: usize) -> Table {
        let start = DateTime::from_timestamp(1_799_999_990, 0).unwrap();
        Table::new(shown("x"), connections, start, most).unwrap()
    }

    #[test]
    fn one_row_per_place_and_denied_first() {
        let table = table(
            &[
                connection("a.example", "192.0.2.1", true),
                connection("b.example", "192.0.2.2", true),
                connection("a.example", "192.0.2.3", true),
                connection("c.example", "", false),
            ],
            10,
        );
        let rows: Vec<(String, bool, &str, usize)> = table
            .rows
            .iter()
            .map(|r| (r.host.to_string(), r.allowed, r.connections.as_str(), r.more_addresses))
            .collect();
        assert_eq!(
            rows,
            [
                ("c.example".to_owned(), false, "1", 0),
                ("a.example".to_owned(), true, "2", 1),
                ("b.example".to_owned(), true, "1", 0),
            ]
        );
        assert_eq!(table.rows[1].sent.replace('\u{202f}', " "), "2.0 kB");
        assert_eq!(table.rows[0].opened.replace('\u{202f}', " "), "10.0 s");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let connections: Vec<_> =
            (0..300).map(|n| connection(&format!("h{n}.example"), "", n >= 250)).collect();
        let table = table(&connections, usize::MAX);
        assert_eq!(table.rows(), MAX_CONNECTION_ROWS);
        assert_eq!(table.left_out, Some(("100 more places".to_owned(), "50".to_owned())));
    }

    #[test]
    fn hosts_are_escaped() {
        let mut hostile =
            connection("<img src=x onerror=alert(1)>\u{202e}\u{1b}[31m", "\"><b>", true);
        hostile.protocol = "<script>".into();
        let html = table(&[hostile], 5).render().unwrap();
        assert!(
            html.contains("&lt;img src=x onerror=alert(1)&gt;<span class=\"ctl\">U+202E</span>")
        );
        assert!(!html.contains("<img") && !html.contains("<script") && !html.contains("<b>"));
        assert!(!html.contains(['\u{202e}', '\u{1b}']));
    }

    #[test]
    fn nothing_is_no_table() {
        assert!(Table::new(shown("x"), &[], Utc::now(), 5).is_none());
        assert_eq!(Totals::of(&[]), Totals::default());
    }
}
