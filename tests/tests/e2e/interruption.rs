//! Builds that are stopped and builders that die.

use std::time::{Duration, Instant};

use cofferdam_tests::marks::{appears, disappears, mark, sleeping};
use cofferdam_tests::{Builder, Context, Options, leftovers};

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
    let context = sleeping(&mark);
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
    let context = sleeping(&mark);
    let build = builder.build(&context).spawn();
    appears(&mark);
    let begun = Instant::now();
    let _ = builder.stop();
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(leftovers::marked(&mark).is_empty());
    assert_ne!(build.finish().code, Some(0));
}

/// Steps side by side, each with a cache of its own and one that all share, a secret, a way to the network, and this command.
fn many(count: usize, command: &str) -> Context {
    let mut text = String::new();
    for number in 0..count {
        text.push_str(&format!(
            "FROM @busybox AS s{number}\nRUN --mount=type=cache,id=own{number},target=/own --mount=type=cache,id=all,target=/all \
             --mount=type=secret,id=s --mount=type=tmpfs,target=/t nc -w 1 10.0.0.1 80 </dev/null; echo {number} > /own/n; echo {number} > /all/{number}; {command}; echo {number} > /made\n"
        ));
    }
    text.push_str("FROM @busybox\n");
    for number in 0..count {
        text.push_str(&format!("COPY --from=s{number} /made /made{number}\n"));
    }
    Context::dockerfile(&text)
}

#[test]
fn whatever_ends_many_steps_leaves_nothing() {
    const STEPS: usize = 8;
    let builder = Builder::start(&Options {
        config: "[limits]\nbuild.time = \"15s\"\n".to_owned(),
        ..Options::default()
    });
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "of the step").unwrap();
    let build = |context: &Context| {
        let secret = format!("id=s,src={}", secret.path().display());
        builder.build(context).arg("--secret").arg(secret)
    };
    let mark = mark(45);
    let quick = many(STEPS, "sleep 0.1");
    let long = many(STEPS, &format!("sleep {mark}"));
    let failing = many(STEPS, "[ $(cat /own/n) != 3 ] || exit 9; sleep 60");
    // What is made once and kept is made before the first look.
    let _ = build(&quick).run().success();
    let before = settled(builder.pid());
    let busy = || {
        let running = build(&long).spawn();
        let begun = Instant::now();
        while leftovers::marked(&mark).len() < STEPS {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", running.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    };
    let interrupted = busy();
    let during = leftovers::Holdings::of(builder.pid());
    assert!(during.networks.len() >= before.networks.len() + STEPS, "control: {during:?}");
    assert!(during.processes["sleep"] >= STEPS, "control: {during:?}");
    interrupted.interrupt();
    assert_ne!(interrupted.finish().code, Some(0));
    returns(builder.pid(), &before, "an interrupted client");
    let killed = busy();
    killed.process().kill();
    let _ = killed.finish();
    returns(builder.pid(), &before, "a killed client");
    let late = busy().finish().failure();
    assert!(late.contains("limits.build.time"), "{late}");
    returns(builder.pid(), &before, "a limit");
    let failed = build(&failing).run().failure();
    assert!(failed.contains("exit code: 9"), "{failed}");
    returns(builder.pid(), &before, "a failure of one step");
    // And the caches are free and whole.
    let image = builder.image(
        "FROM @busybox\nRUN --mount=type=cache,id=all,target=/all,sharing=locked cat /all/* | sort | tr -d '\\n' > /n\n",
    );
    assert_eq!(image.text("n"), "01234567");
}

/// What a builder holds once that changes no more. Launch helpers keep a network for the next step for five seconds.
fn settled(pid: i32) -> leftovers::Holdings {
    let begun = Instant::now();
    let mut last = leftovers::Holdings::of(pid);
    let mut since = begun;
    while since.elapsed() < Duration::from_secs(6) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the builder does not settle: {last:?}");
        std::thread::sleep(Duration::from_millis(200));
        let next = leftovers::Holdings::of(pid);
        if next != last {
            (last, since) = (next, Instant::now());
        }
    }
    last
}

/// Waits until a builder holds what it held before.
fn returns(pid: i32, before: &leftovers::Holdings, after: &str) {
    let begun = Instant::now();
    loop {
        let now = leftovers::Holdings::of(pid);
        if now == *before {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "left after {after}:\n{now:?}\nbefore:\n{before:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
