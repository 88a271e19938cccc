//! Content of files that were asked for.

use super::super::pool::Whole;
use super::{Receiver, invalid};
use crate::fsutil::receive::ReceiveError;

impl Receiver {
    pub(super) fn data(&mut self, id: (usize, u32), data: &[u8]) -> Result<(), ReceiveError> {
        let Some(file) = self.pending.get_mut(&id) else {
            return Err(invalid(format!("data of file {}, which was not requested", id.1)));
        };
        let begins = !file.has_begun();
        if begins && self.in_transit >= self.options.limits.max_open_files {
            return Err(ReceiveError::Limit { limit: "the number of files in transit" });
        }
        if data.is_empty() {
            self.in_transit -= usize::from(!begins);
            return self.whole(id);
        }
        self.in_transit += usize::from(begins);
        self.received.bytes += data.len() as u64;
        if self.received.bytes > self.options.limits.max_content_bytes {
            return Err(ReceiveError::Limit { limit: "the size of all files" });
        }
        file.add(data, &self.disk, &mut self.parents)
    }

    /// Finishes a file of which nothing more is to come.
    fn whole(&mut self, id: (usize, u32)) -> Result<(), ReceiveError> {
        let Some(file) = self.pending.remove(&id) else { return Ok(()) };
        let parent = self.parents.of(&self.disk, file.path())?;
        // What waits for a thread holds no descriptor of its own.
        if file.is_open() { file.finish(&parent) } else { self.pool.finish(Whole { file, parent }) }
    }
}
