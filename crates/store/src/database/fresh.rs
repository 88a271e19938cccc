//! The records' file in the making: under another name, and durable once at the end instead of after each step.
//!
//! Nobody relies on the file before it has its own name, and what a crash leaves under the other is overwritten the next time. What is
//! written after that is as durable as the database wants it: nothing may be put off then.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// The name of a file that is not made yet.
pub(super) const PART: &str = "records.part";

/// A file of which nothing is made durable before it is said to be made.
#[derive(Debug)]
pub(super) struct Fresh {
    file: FileBackend,
    made: Arc<AtomicBool>,
}

/// Says that a file is made.
#[derive(Debug)]
pub(super) struct Making {
    file: File,
    made: Arc<AtomicBool>,
}

impl Fresh {
    /// Begins with an empty file.
    pub(super) fn begin(file: File) -> Result<(Self, Making), redb::Error> {
        let made = Arc::new(AtomicBool::new(false));
        let making = Making { file: file.try_clone()?, made: Arc::clone(&made) };
        Ok((Self { file: FileBackend::new(file)?, made }, making))
    }
}

impl Making {
    /// Makes all of it durable, and from now on whatever the database wants to be.
    pub(super) fn finish(self) -> io::Result<()> {
        self.made.store(true, Ordering::SeqCst);
        self.file.sync_data()
    }
}

impl StorageBackend for Fresh {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.made.load(Ordering::SeqCst) { self.file.sync_data() } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
