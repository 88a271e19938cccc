//! A client that stops reading while a step writes and writes.

use std::time::Duration;

use cofferdam_tests::marks::{appears, disappears, mark};
use cofferdam_tests::strace::{memory_of, store_of};
use cofferdam_tests::{Builder, Context};
use rustix::process::Signal;

/// What a builder may take for a hundred megabytes of output that nobody reads: it keeps 16 MiB of a step, once for those who
/// come later and once on its way.
const MOST: u64 = 96 << 20;

/// Says `begun`, then a hundred megabytes, and then sleeps for so long.
fn flood(mark: &str) -> Context {
    Context::dockerfile(&format!(
        "FROM @busybox\nRUN echo be'g'un; yes 0123456789012345678901234567890123456789 | head -c 100000000; sleep {mark}\n"
    ))
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody() {
    let builder = Builder::plain();
    // What is made once and kept is made before the first look.
    let other = Context::dockerfile("FROM @busybox\nRUN seq 1000; echo done > /d\n");
    assert_eq!(builder.build(&other).image().text("d"), "done\n");
    let (pid, _) = store_of(builder.pid());
    let before = memory_of(pid);
    for (number, killed) in [(71, false), (72, true)] {
        let mark = mark(number);
        let context = flood(&mark);
        let build = builder.build(&context).args("--no-cache").spawn();
        build.wait_for("begun");
        build.process().signal(Signal::STOP);
        // The step is not held up: it gets to its end.
        appears(&mark);
        let during = memory_of(pid);
        assert!(during < before + MOST, "{before} bytes became {during}");
        assert_eq!(builder.build(&other).args("--no-cache").image().text("d"), "done\n");
        assert!(memory_of(pid) < before + MOST);
        if killed {
            build.process().kill();
        } else {
            build.process().signal(Signal::CONT);
            build.interrupt();
        }
        disappears(&mark, Duration::from_secs(60));
        assert_ne!(build.finish().code, Some(0));
    }
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
}
