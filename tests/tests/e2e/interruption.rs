//! Builds that are stopped and builders that die.

use std::time::{Duration, Instant};

use cofferdam_tests::{Builder, Context, Options, leftovers};

fn mark(number: u32) -> String {
    format!("{number}{:07}", std::process::id())
}

fn appears(mark: &str) {
    for _ in 0..1500 {
        if !leftovers::marked(mark).is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no process with {mark}");
}

fn disappears(mark: &str, within: Duration) {
    let begun = Instant::now();
    while !leftovers::marked(mark).is_empty() {
        assert!(begun.elapsed() < within, "still there: {:?}", leftovers::marked(mark));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn interrupting_the_client_ends_the_step() {
    let builder = Builder::plain();
    let mark = mark(41);
    let context =
        Context::dockerfile(&format!("FROM @busybox\nRUN trap '' INT TERM; sleep {mark}\n"));
    let build = builder.build(&context).spawn();
    appears(&mark);
    let begun = Instant::now();
    build.interrupt();
    disappears(&mark, Duration::from_secs(3));
    let outcome = build.finish();
    assert_ne!(outcome.code, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(outcome.stderr.to_lowercase().contains("cancel"), "{}", outcome.stderr);
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
}

#[test]
fn a_client_that_is_killed_takes_its_step_with_it() {
    let builder = Builder::plain();
    let mark = mark(42);
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN sleep {mark}\n"));
    let build = builder.build(&context).spawn();
    appears(&mark);
    build.process().kill();
    disappears(&mark, Duration::from_secs(15));
    assert_eq!(builder.image("FROM @busybox\nRUN echo next > /n\n").text("n"), "next\n");
}

#[test]
fn a_step_two_builds_want_goes_on_for_the_one_that_stays() {
    let builder = Builder::plain();
    let context = Context::dockerfile("FROM @busybox\nRUN sleep 2; echo done > /d\n");
    let first = builder.build(&context).spawn();
    first.wait_for("RUN sleep");
    let second = builder.build(&context).spawn();
    second.wait_for("RUN sleep");
    first.interrupt();
    assert_ne!(first.finish().code, Some(0));
    let _ = second.finish().success();
    assert_eq!(builder.build(&context).image().text("d"), "done\n");
}

#[test]
fn a_builder_that_was_killed_leaves_nothing_and_remembers() {
    let builder = Builder::plain();
    let kept = Context::dockerfile("FROM @busybox\nRUN head -c 32 /dev/urandom | sha256sum > /r\n");
    let before = builder.build(&kept).image().text("r");
    // Records are written in batches, at the latest a second after a build.
    std::thread::sleep(Duration::from_millis(1500));
    let mark = mark(43);
    let context = Context::dockerfile(&format!(
        "FROM @busybox\nRUN dd if=/dev/zero of=/half bs=1M count=5 2>/dev/null; sleep {mark}\n"
    ));
    let build = builder.build(&context).spawn();
    appears(&mark);
    let pid = builder.pid();
    let home = builder.kill();
    assert!(leftovers::marked(&mark).is_empty());
    assert_ne!(build.finish().code, Some(0), "its client is told");
    assert!(leftovers::mounts(&home.root()).is_empty());
    let builder = Builder::start_in(home, &Options::default());
    let outcome = builder.build(&kept).run().success();
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    assert_eq!(builder.build(&kept).image().text("r"), before);
    // The half-finished layer was swept: a later build of it starts anew and nothing of it lies around.
    let begun = Instant::now();
    while walk(&builder.root()).iter().any(|path| path.ends_with("/half")) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", walk(&builder.root()));
        std::thread::sleep(Duration::from_millis(50));
    }
    // Groups of the dead one go when the next one is made.
    assert!(leftovers::groups(pid).is_empty(), "{:?}", leftovers::groups(pid));
}

fn walk(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn telling_a_builder_to_stop_ends_running_builds() {
    let builder = Builder::plain();
    let mark = mark(44);
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN sleep {mark}\n"));
    let build = builder.build(&context).spawn();
    appears(&mark);
    let begun = Instant::now();
    let _ = builder.stop();
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(leftovers::marked(&mark).is_empty());
    assert_ne!(build.finish().code, Some(0));
}
