//! System calls of a builder's store that fail, one kind after the other: making, naming, recording, syncing.

use std::path::PathBuf;
use std::time::Duration;

use cofferdam_tests::strace::{Faults, store_of};
use cofferdam_tests::{Builder, Options, need_root};

use crate::shared::{attempt, context, intact, one_error, same, tidy, undisturbed};

/// Calls and the parts of the store that they are about.
const CALLS: &[(&str, &[&str])] = &[
    ("mkdirat", &["active", "mutable"]),
    ("openat2", &["ingest", "active"]),
    ("renameat,renameat2", &["active", "layers", "ingest", "fresh"]),
    ("pwrite64,ftruncate,fallocate,fsync,fdatasync", &["records"]),
    ("syncfs", &[""]),
];

/// Errors, which of a thread's calls get them, and what is said then. What a failed sync took with it is said to be lost.
const ERRORS: &[(&str, &str, &[&str])] = &[
    ("ENOSPC", "1", &["no space left", "the disk lost"]),
    ("EIO", "2", &["input/output error", "the disk lost"]),
];

/// Changes are on disk a second after they were made, at the latest.
const BATCH: Duration = Duration::from_millis(1300);

#[test]
fn any_call_of_the_store_may_fail() {
    need_root();
    let context = context(300);
    let wanted = undisturbed(&context);
    let builder = Builder::plain();
    same(&builder, &context, "", &wanted);
    let (pid, store) = store_of(builder.pid());
    let (mut injected, mut failed) = (0, 0);
    for (calls, parts) in CALLS {
        let part = |part: &&str| if part.is_empty() { store.clone() } else { store.join(part) };
        let paths: Vec<PathBuf> = parts.iter().map(part).collect();
        for (error, when, words) in ERRORS {
            let faults = Faults::inject(pid, calls, error, when, &paths);
            let result = attempt(&builder, &context, "--no-cache");
            std::thread::sleep(BATCH);
            injected += faults.stop();
            match result {
                Ok(image) => assert_eq!(image.digest, wanted, "{calls}: {error}"),
                Err(stderr) => {
                    one_error(&stderr, words);
                    failed += 1;
                }
            }
        }
        same(&builder, &context, "--no-cache", &wanted);
    }
    assert!(injected >= CALLS.len(), "control: {injected} calls failed");
    assert!(failed > 0, "control: no build failed");
    assert_eq!(store_of(builder.pid()).0, pid, "it is the same builder");
    tidy(&builder);
    let builder = Builder::start_in(intact(builder), &Options::default());
    same(&builder, &context, "", &wanted);
}
