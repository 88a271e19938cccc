//! Limits of steps and builds: each is exceeded and said, and a control shows what stays within it.

use std::time::{Duration, Instant};

use cofferdam_tests::marks::{appears, disappears, mark, sleeping};
use cofferdam_tests::{Builder, Context, Options, leftovers, need_root};

fn limited(limits: &str) -> Builder {
    let config = format!("[limits]\n{limits}\n");
    Builder::start(&Options { config, ..Options::default() })
}

fn fails(builder: &Builder, command: &str) -> String {
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN {command}\n"));
    builder.build(&context).run().failure()
}

fn says(builder: &Builder, command: &str) -> String {
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN {command}\n"));
    builder.build(&context).run().success().log("RUN ")
}

#[test]
fn a_step_has_so_much_memory() {
    need_root();
    let builder = limited("step.memory = \"32MiB\"");
    let large = "dd if=/dev/zero of=/dev/null bs=100M count=1";
    let error = fails(&builder, large);
    assert!(error.contains("the step ran out of memory and was killed"), "{error}");
    says(&builder, "dd if=/dev/zero of=/dev/null bs=1M count=100");
    says(&Builder::plain(), large);
}

#[test]
fn a_step_has_so_many_processes() {
    need_root();
    let builder = limited("step.pids = 20");
    let many = "for i in $(seq 60); do sleep 2 & done; wait";
    let error = fails(&builder, many);
    assert!(
        error.contains("the step reached its limit of 20 processes (limits.step.pids)"),
        "{error}"
    );
    says(&builder, "for i in $(seq 10); do sleep 0.1 & done; wait");
    says(&Builder::plain(), many);
}

#[test]
fn a_step_has_so_many_processors() {
    need_root();
    // How much of two seconds two busy processes get; the clock of the kernel is the witness.
    let busy = "timeout 2 sh -c 'while :; do :; done' & timeout 2 sh -c 'while :; do :; done' & wait; times";
    let used = |builder: &Builder| {
        let said = says(builder, busy);
        let last = said.lines().last().unwrap().to_owned();
        let user = last.split_whitespace().next().unwrap();
        let (minutes, seconds) = user.trim_end_matches('s').split_once('m').unwrap();
        minutes.parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    let (little, all) = (used(&limited("step.cpus = 0.2")), used(&Builder::plain()));
    assert!(little < 0.8, "{little} of 2 seconds");
    assert!(all > 1.0, "control: {all} of 2 seconds");
}

#[test]
fn a_process_has_so_many_open_files() {
    let builder = limited("step.openFiles = 40");
    let open = "exec 2>&1; mkdir /f; for i in $(seq 60); do echo x > /f/$i; done; tail -q -n 1 /f/* | wc -l; ulimit -n";
    let said = says(&builder, open);
    assert!(said.contains("Too many open files") && said.ends_with("\n40"), "{said}");
    let said = says(&Builder::plain(), open);
    assert!(said.starts_with("60") && !said.contains("Too many"), "{said}");
    // Neither the client nor the step can raise it.
    let context = Context::dockerfile(
        "FROM @busybox\nRUN ulimit -Hn; (ulimit -n 100) 2>/dev/null || echo refused; ulimit -n\n",
    );
    let outcome = builder.build(&context).args("--ulimit nofile=1000:1000").run().success();
    let said = outcome.log("RUN ");
    assert!(said.starts_with("40") && said.contains("refused") && said.ends_with("40"), "{said}");
}

#[test]
fn a_step_writes_so_much() {
    let builder = limited("step.disk = \"8MiB\"");
    let wrote = "the step wrote more than 8 MiB to disk, which is its limit (limits.step.disk)";
    // Too fast to be seen while it runs.
    let error = fails(&builder, "dd if=/dev/zero of=/large bs=1M count=20");
    assert!(error.contains(wrote), "{error}");
    // So slow that it would write for minutes.
    let slow = "i=0; while [ $i -lt 600 ]; do dd if=/dev/zero of=/part$i bs=1M count=1 2>/dev/null; i=$((i+1)); sleep 0.1; done";
    let begun = Instant::now();
    let error = fails(&builder, slow);
    assert!(error.contains(wrote) && begun.elapsed() < Duration::from_secs(20), "{error}");
    // What is written and deleted again is no harm.
    says(
        &builder,
        "for i in 1 2 3 4 5; do dd if=/dev/zero of=/part bs=1M count=4 2>/dev/null; rm /part; done",
    );
    says(&builder, "dd if=/dev/zero of=/large bs=1M count=6");
    says(&Builder::plain(), "dd if=/dev/zero of=/large bs=1M count=20");
}

#[test]
fn what_a_step_writes_elsewhere_counts_too() {
    let builder = limited("step.disk = \"8MiB\"");
    let with = |mount: &str, command: &str| {
        let text = format!("FROM @busybox\nRUN --mount={mount} {command}\n");
        builder.build(&Context::dockerfile(&text)).run()
    };
    let cache = "type=cache,target=/c";
    let error = with(cache, "dd if=/dev/zero of=/c/large bs=1M count=20").failure();
    assert!(error.contains("limits.step.disk"), "{error}");
    let error =
        with("type=bind,rw,target=/c", "dd if=/dev/zero of=/c/large bs=1M count=20").failure();
    assert!(error.contains("limits.step.disk"), "{error}");
    // What was in a cache before is nobody's; only what is added counts.
    let _ = with(cache, "rm /c/large; dd if=/dev/zero of=/c/one bs=1M count=7").success();
    let _ = with(cache, "dd if=/dev/zero of=/c/two bs=1M count=7").success();
    let said = with(cache, "du -m /c/one /c/two").success().log("RUN ");
    assert!(said.contains("/c/one") && said.contains("/c/two"), "{said}");
    // Empty files fill a disk as well, and so does depth.
    let error = fails(
        &builder,
        "mkdir /d; cd /d; for i in $(seq 400); do mkdir d; cd d; done; sleep 1; i=0; while [ $i -lt 300 ]; do mkdir d; cd -P d; i=$((i+1)); done; sleep 60",
    );
    assert!(error.contains("limits.step.disk"), "{error}");
}

#[test]
fn a_step_takes_so_long() {
    let builder = limited("step.time = \"2s\"");
    let mark = mark(61);
    let begun = Instant::now();
    let error = fails(&builder, &format!("trap '' TERM INT; sleep {mark}"));
    assert!(
        error.contains("the step was ended: it ran longer than 2s (limits.step.time)"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(leftovers::marked(&mark).is_empty());
    // Two steps of less are no trouble.
    let context = Context::dockerfile("FROM @busybox\nRUN sleep 1.2\nRUN sleep 1.3\n");
    let _ = builder.build(&context).run().success();
}

#[test]
fn a_step_says_so_much() {
    let builder = limited("step.log = \"10KiB\"");
    let said = says(&builder, "seq 1 10000; echo the end");
    assert_eq!(said.matches("[output clipped, log limit 10KiB reached]").count(), 1, "{said}");
    let all: usize = (1..=10_000).map(|number: u32| number.to_string().len() + 1).sum();
    let dropped =
        format!("[{} bytes of output were dropped]", all + "the end\n".len() - (10 << 10));
    assert_eq!(said.matches(&dropped).count(), 1, "{dropped} in {said}");
    assert!(!said.contains("the end"));
    let said = says(&builder, "seq 1 1000; echo the end");
    assert!(said.ends_with("\nthe end") && !said.contains("clipped"), "{said}");
    // More than other builders show, and all of it.
    let said = says(&Builder::plain(), "seq 1 400000; echo the end");
    assert!(said.ends_with("\nthe end") && said.len() > 2 << 20, "{}", said.len());
}

#[test]
fn a_build_says_so_much() {
    let builder = limited("build.log = \"20KiB\"");
    let context =
        Context::dockerfile("FROM @busybox\nRUN seq 1 2000; echo one\nRUN seq 1 20000; echo two\n");
    let outcome = builder.build(&context).run().success();
    assert!(outcome.log("echo one").ends_with("one"));
    let said = outcome.log("echo two");
    assert!(said.contains("log limit of the build reached") && !said.ends_with("two"), "{said}");
}

#[test]
fn a_build_takes_so_long() {
    let builder = limited("build.time = \"3s\"");
    let mark = mark(62);
    let slow = Context::dockerfile(&format!("FROM @busybox\nRUN sleep 2\nRUN sleep {mark}\n"));
    let error = builder.build(&slow).run().failure();
    assert!(
        error.contains("the build was ended: it ran longer than 3s (limits.build.time)"),
        "{error}"
    );
    disappears(&mark, Duration::from_secs(5));
    // The time is each build's own.
    for _ in 0..2 {
        let context = Context::dockerfile("FROM @busybox\nRUN sleep 1.5\n");
        let _ = builder.build(&context).args("--no-cache").run().success();
    }
}

#[test]
fn a_build_runs_so_many_steps_at_once() {
    let stage = |name: &str| {
        format!(
            "FROM @busybox AS {name}\nRUN --mount=type=cache,target=/c touch /c/run-{name}; sleep 1; \
             [ $(ls /c/run-* | wc -l) = 1 ] || touch /c/met; sleep 0.5; rm /c/run-{name}; touch /made-{name}\n"
        )
    };
    let text = format!(
        "{}{}{}FROM @busybox\nCOPY --from=a /made-a /\nCOPY --from=b /made-b /\nCOPY --from=c /made-c /\n\
         RUN --mount=type=cache,target=/c [ -e /c/met ] && echo together || echo one after the other\n",
        stage("a"),
        stage("b"),
        stage("c")
    );
    let said = |builder: &Builder| {
        builder.build(&Context::dockerfile(&text)).run().success().log("echo together")
    };
    assert_eq!(said(&limited("build.steps = 1")), "one after the other");
    assert_eq!(said(&Builder::plain()), "together");
}

#[test]
fn so_many_builds_run_at_once_and_others_wait() {
    let builder = limited("builds = 1");
    let mark = mark(63);
    let long = sleeping(&mark);
    let first = builder.build(&long).spawn();
    appears(&mark);
    let short = Context::dockerfile("FROM @busybox\nRUN echo done\n");
    let second = builder.build(&short).spawn();
    second.wait_for("this builder runs at most 1 builds at once (limits.builds)");
    // Who waits can leave.
    let third = builder.build(&short).spawn();
    third.wait_for("limits.builds");
    third.interrupt();
    assert_ne!(third.finish().code, Some(0));
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        !second.said().contains("DONE\n") && !second.said().contains("RUN echo"),
        "{}",
        second.said()
    );
    first.interrupt();
    assert_ne!(first.finish().code, Some(0));
    assert_eq!(second.finish().success().log("RUN echo"), "done");
    // Without the limit both run.
    let builder = Builder::plain();
    let first = builder.build(&long).spawn();
    first.wait_for("RUN sleep");
    let outcome = builder.build(&short).run().success();
    assert!(!outcome.stderr.contains("limits.builds"));
    first.interrupt();
    let _ = first.finish();
}

#[test]
fn limits_that_make_no_sense_stop_the_builder() {
    for limits in ["step.cpu = 1", "step.cpus = -1.0", "step.log = \"5%\"", "step.disk = \"much\""]
    {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("builder.toml");
        std::fs::write(&config, format!("[limits]\n{limits}\n")).unwrap();
        let output = std::process::Command::new(cofferdam_tests::program())
            .arg("builder")
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(home.path().join("root"))
            .args(["--addr", &format!("unix://{}/s", home.path().display())])
            .output()
            .unwrap();
        assert!(!output.status.success(), "{limits}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("limits") || said.contains("builder.toml"), "{limits}: {said}");
    }
}
