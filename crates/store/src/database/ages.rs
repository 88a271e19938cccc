//! When documents were used, and which of them have had their time.

use std::collections::HashMap;

use chrono::DateTime;
use redb::{ReadableTable, WriteTransaction};

use super::schema::{DOCUMENT_USES, DOCUMENTS};
use crate::clock::Jump;

/// Kind and key of a document.
pub(crate) type DocumentName = (String, String);

/// What decides about documents. Times are seconds.
pub(crate) struct Ages {
    /// Kinds that go by age, and how many of each are kept.
    pub(crate) kinds: HashMap<String, usize>,
    /// Uses that are not in the database yet.
    pub(crate) noted: HashMap<DocumentName, i64>,
    /// Jumps of the clock since the uses there were written.
    pub(crate) jumps: Vec<Jump>,
    /// What no row tells of was used now.
    pub(crate) now: i64,
    /// What was not used after this goes.
    pub(crate) cut: Option<i64>,
}

/// Writes the noted uses and names the documents that are to go, the longest unused first.
pub(super) fn stamp(
    transaction: &WriteTransaction,
    ages: &Ages,
) -> Result<Vec<DocumentName>, redb::Error> {
    let documents = transaction.open_table(DOCUMENTS)?;
    let mut uses = transaction.open_table(DOCUMENT_USES)?;
    let mut going = Vec::new();
    for (kind, most) in &ages.kinds {
        let mut known: Vec<(i64, String)> = Vec::new();
        for row in documents.range((kind.as_str(), "")..)? {
            let (name, _) = row?;
            let (row_kind, key) = name.value();
            if row_kind != kind.as_str() {
                break;
            }
            let noted = ages.noted.get(&(kind.clone(), key.to_owned())).copied();
            let stored = uses.get((kind.as_str(), key))?.map(|row| row.value());
            let followed = stored.map(|used| followed(used, &ages.jumps));
            let used = noted.or(followed).unwrap_or(ages.now).min(ages.now);
            if stored != Some(used) {
                uses.insert((kind.as_str(), key), used)?;
            }
            known.push((used, key.to_owned()));
        }
        known.sort_unstable();
        let excess = known.len().saturating_sub(*most);
        for (index, (used, key)) in known.into_iter().enumerate() {
            if index < excess || ages.cut.is_some_and(|cut| used <= cut) {
                going.push((kind.clone(), key));
            }
        }
    }
    Ok(going)
}

/// A stored use, in seconds, after jumps of the clock.
fn followed(used: i64, jumps: &[Jump]) -> i64 {
    let Some(stamp) = DateTime::from_timestamp(used, 0) else { return used };
    jumps.iter().fold(stamp, |stamp, jump| jump.followed_by(stamp)).timestamp()
}
