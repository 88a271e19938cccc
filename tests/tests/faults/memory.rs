//! A step that takes more memory than it may, beside one that does not.

use cofferdam_tests::marks::{appears, mark};
use cofferdam_tests::{Builder, Context, Options, leftovers, need_root};
use rustix::process::{Pid, Signal, kill_process};

use crate::shared::{intact, one_error, tidy};

#[test]
fn a_step_without_memory_takes_nobody_with_it() {
    need_root();
    let config = "[limits]\nstep.memory = \"32MiB\"\n".to_owned();
    let builder = Builder::start(&Options { config, ..Options::default() });
    let mark = mark(81);
    let patient =
        Context::dockerfile(&format!("FROM @busybox\nRUN sleep {mark}; echo done > /d\n"));
    let beside = builder.build(&patient).args("--output type=tar,dest=-").spawn();
    appears(&mark);
    let greedy =
        Context::dockerfile("FROM @busybox\nRUN dd if=/dev/zero of=/dev/null bs=100M count=1\n");
    for _ in 0..3 {
        let stderr = builder.build(&greedy).run().failure();
        one_error(&stderr, &["the step ran out of memory and was killed"]);
        assert!(!leftovers::marked(&mark).is_empty(), "the other step was ended too");
    }
    // Its sleep is cut short, and the step goes on behind it.
    for (pid, _) in leftovers::marked(&mark) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    }
    let files = cofferdam_tests::entries(&beside.finish().success().stdout);
    assert_eq!(files["d"].text(), "done\n");
    tidy(&builder);
    drop(intact(builder));
}
