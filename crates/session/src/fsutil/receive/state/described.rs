//! Transfers of descriptions: every entry is written down, and only what a build names is brought.
//!
//! The list is a file at the top, each entry behind its length as four little-endian bytes. Directories
//! are made when something in them is brought, so they are kept back until then.

use buffa::{Message as _, MessageView as _};
use cofferdam_wire::fsutil::types::{Stat, StatView};

use super::{Receiver, Step, invalid};
use crate::fsutil::mode::GoMode;
use crate::fsutil::order;
use crate::fsutil::receive::ReceiveError;
use crate::fsutil::receive::file::FileInProgress;
use crate::patterns::Matcher;

/// Name of the list. An entry of the sender that is called like this is left out, and has no id.
pub(super) const LIST: &str = ".fsutil-metadata";
/// Largest list, which is held in memory until it is whole. Frontends read it in one message, and those have no more room.
const MAX_LIST: usize = 16 << 20;

/// What a transfer of descriptions has so far.
#[derive(Default)]
pub(super) struct Described {
    list: Vec<u8>,
    /// Directories that are not made yet, as the list has them, outermost first.
    held: Vec<(String, Vec<u8>)>,
}

impl Receiver {
    /// Writes an entry down, and takes it in when it is among what is to be brought.
    pub(super) fn describe(
        &mut self,
        id: (usize, u32),
        stat: &StatView<'_>,
        wanted: &Matcher,
    ) -> Result<Step, ReceiveError> {
        let encoded = stat
            .to_owned_message()
            .map_err(|_| invalid(format!("{} cannot be written down", stat.path)))?
            .encode_to_vec();
        let described = self.described.get_or_insert_default();
        let length = u32::try_from(encoded.len()).unwrap_or(u32::MAX);
        if described.list.len().saturating_add(encoded.len() + 4) > MAX_LIST {
            return Err(ReceiveError::Limit { limit: "the size of the list of entries" });
        }
        described.list.extend_from_slice(&length.to_le_bytes());
        described.list.extend_from_slice(&encoded);
        let path = stat.path;
        described.held.retain(|(held, _)| {
            path.strip_prefix(held.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        if GoMode(stat.mode).file_type().is_some_and(|kind| kind.is_dir()) {
            if !wanted.matches(path) {
                described.held.push((path.to_owned(), encoded));
                return Ok(Step::Continue);
            }
        } else if !wanted.matches(path) {
            return Ok(Step::Continue);
        }
        if !stat.linkname.is_empty() && self.is_link_to_unknown(stat) {
            return Ok(Step::Continue);
        }
        let held = self.described.as_mut().map(|described| std::mem::take(&mut described.held));
        for (_, directory) in held.unwrap_or_default() {
            let directory = StatView::decode_view(&directory)
                .map_err(|_| invalid("an entry cannot be read again".to_owned()))?;
            self.take(id, &directory)?;
        }
        self.take(id, stat)
    }

    /// Whether a hard link leads to a file that was not brought.
    fn is_link_to_unknown(&self, stat: &StatView<'_>) -> bool {
        GoMode(stat.mode).without_socket().file_type().is_some_and(|kind| kind.is_file())
            && !self.files.contains_key(stat.linkname)
    }

    /// Writes the list.
    pub(super) fn write_list(&mut self) -> Result<(), ReceiveError> {
        let Some(described) = self.described.take() else { return Ok(()) };
        let stat = Stat { path: LIST.to_owned(), mode: 0o644, ..Stat::default() }.encode_to_vec();
        let stat = StatView::decode_view(&stat)
            .map_err(|_| invalid("the list cannot be described".to_owned()))?;
        let attributes = self.disk.attributes(&stat, GoMode(stat.mode))?;
        let mut file = FileInProgress::new(LIST, attributes, false);
        if !described.list.is_empty() {
            file.add(&described.list, &self.disk, &mut self.parents)?;
        }
        let parent = self.parents.of(&self.disk, LIST)?;
        file.finish(&parent)
    }

    /// Applies an entry to the directory it is in.
    pub(super) fn take(
        &mut self,
        id: (usize, u32),
        stat: &StatView<'_>,
    ) -> Result<Step, ReceiveError> {
        let path = stat.path;
        let (parent, name) = order::split(path);
        self.enter(parent, path)?;
        let mode = GoMode(stat.mode).without_socket();
        let kind = mode.file_type();
        let kind = kind.ok_or_else(|| invalid(format!("impossible mode of {path}")))?;
        self.place(id, stat, path, name, mode, kind)
    }
}
