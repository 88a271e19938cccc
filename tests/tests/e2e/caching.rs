//! What is reused, and what is not.

use std::os::unix::fs::MetadataExt;

use cofferdam_tests::{Builder, Context};

fn context() -> Context {
    Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nRUN echo first\nCOPY a /a\nRUN cat /a\nCOPY b /b\nRUN cat /b\n",
        ),
        ("a", "1"),
        ("b", "1"),
    ])
}

fn ran(builder: &Builder, context: &Context) -> Vec<String> {
    let names = builder.build(context).run().success().ran();
    names.into_iter().map(|name| name.split_once("] ").unwrap().1.to_owned()).collect()
}

#[test]
fn a_second_build_does_nothing() {
    let (builder, context) = (Builder::plain(), context());
    assert_eq!(ran(&builder, &context).len(), 5);
    assert!(ran(&builder, &context).is_empty());
    let outcome = builder.build(&context).run().success();
    assert_eq!(
        outcome.cached().iter().filter(|name| !name.contains("FROM")).count(),
        5,
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_changed_file_reruns_what_comes_after_it() {
    let (builder, context) = (Builder::plain(), context());
    let _ = ran(&builder, &context);
    context.write("b", "2");
    assert_eq!(ran(&builder, &context), ["COPY b /b", "RUN cat /b"]);
    context.write("a", "2");
    assert_eq!(ran(&builder, &context).len(), 4);
    // Back to an earlier state: that is remembered too.
    context.write("a", "1").write("b", "1");
    assert!(ran(&builder, &context).is_empty());
}

#[test]
fn times_do_not_count_but_modes_do() {
    let (builder, context) = (Builder::plain(), context());
    context.mode("a", 0o644);
    let _ = ran(&builder, &context);
    let file = std::fs::File::options().write(true).open(context.join("a")).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(100)).unwrap();
    assert!(ran(&builder, &context).is_empty(), "touched");
    context.mode("a", 0o755);
    assert_eq!(ran(&builder, &context).len(), 4, "a mode is content");
}

#[test]
fn the_same_content_from_another_place_is_the_same_input() {
    let builder = Builder::plain();
    let _ = ran(&builder, &context());
    assert!(ran(&builder, &context()).is_empty(), "another directory with the same files");
    // The first stage runs again but makes the same file: what copies it does not.
    let staged = |mark: &str| {
        Context::dockerfile(&format!(
            "FROM @busybox AS made\nRUN echo {mark} > /dev/null; echo same > /file\nFROM @busybox\nCOPY --from=made /file /f\nRUN cat /f\n"
        ))
    };
    let _ = ran(&builder, &staged("one"));
    let again = ran(&builder, &staged("two"));
    assert_eq!(again.len(), 1, "{again:?}");
}

#[test]
fn no_cache_runs_everything_or_a_stage_again() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox AS one\nRUN echo 1 > /one\nFROM @busybox AS two\nCOPY --from=one /one /\nRUN echo 2\n",
    );
    let _ = builder.build(&context).run().success();
    assert_eq!(builder.build(&context).args("--no-cache").run().success().ran().len(), 3);
    let filtered = builder.build(&context).args("--no-cache-filter two").run().success().ran();
    assert!(
        filtered.iter().all(|name| !name.contains("echo 1"))
            && filtered.iter().any(|name| name.contains("echo 2")),
        "{filtered:?}"
    );
    assert!(
        builder.build(&context).run().success().ran().is_empty(),
        "what ran without the cache is in the cache"
    );
}

/// Files of the builder's layers that are called `name`.
fn in_layers(builder: &Builder, name: &str) -> Vec<std::fs::Metadata> {
    let layers = std::fs::read_dir(builder.root().join("store/layers")).unwrap();
    let files = layers.map(|layer| layer.unwrap().path().join("app").join(name));
    files.filter_map(|file| std::fs::metadata(file).ok()).collect()
}

#[test]
fn a_copy_made_again_shares_what_did_not_change_and_nobody_can_write_to_it() {
    let builder = Builder::plain();
    let context = Context::new(&[
        ("Dockerfile", "FROM @busybox\nCOPY src /app\n"),
        ("src/a", "1"),
        ("src/b", "1"),
    ]);
    let build = || builder.build(&context).args("--no-cache").image();
    let _ = build();
    // A file that changed within the last tick of the clock is copied again.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let _ = build();
    let again = build();
    assert_eq!([again.text("app/a"), again.text("app/b")], ["1", "1"]);
    let shared = in_layers(&builder, "a").iter().filter(|file| file.nlink() > 1).count();
    assert!(shared >= 2, "control: two layers have one file: {:?}", in_layers(&builder, "a"));
    context.write("src/b", "2");
    let changed = build();
    assert_eq!([changed.text("app/a"), changed.text("app/b")], ["1", "2"]);
    // Steps that write to it, by its name, by one they make and by a mount, get a file of their own.
    context.write(
        "Dockerfile",
        "FROM @busybox AS source\nCOPY src /app\nFROM source AS writes\nRUN echo evil > /app/a && ln /app/b /app/c && echo evil > /app/c\n\
         RUN --mount=type=bind,from=source,source=/app,target=/m,rw echo evil > /m/a; chmod 777 /m/b\n\
         FROM source\nCOPY --from=source /app/a /app/copied\nCOPY --from=writes /app/a /evil\nRUN cp /app/a /app/d && [ $(cat /app/a /app/b /app/copied /app/d) = 1211 ]\n",
    );
    let _ = build();
    context.write("Dockerfile", "FROM @busybox\nCOPY src /app\n");
    let last = build();
    assert_eq!([last.text("app/a"), last.text("app/b")], ["1", "2"]);
    assert_eq!(last.files()["app/b"].mode, 0o644);
    let written = in_layers(&builder, "a").iter().filter(|file| file.len() != 1).count();
    assert_eq!(written, 1, "control: the step that wrote has a file of its own");
}

#[test]
fn a_large_context_is_brought_in_two_parts() {
    let builder = Builder::plain();
    let context = Context::dockerfile("FROM scratch\nCOPY . /app\n");
    for index in 0..4_400 {
        context.write(&format!("m/{}/f{index}", index % 4), "as it was");
    }
    let apart = || {
        let mirrors = std::fs::read_dir(builder.root().join("store/mutable")).unwrap();
        let apart = mirrors.map(|mirror| mirror.unwrap().path().join("state/apart"));
        apart.filter_map(|file| std::fs::read_to_string(file).ok()).collect::<Vec<_>>()
    };
    let first = builder.build(&context).image();
    assert_eq!(apart(), ["m/0\nm/1\n"], "control: the next build asks for parts");
    assert!(ran(&builder, &context).is_empty());
    // Something in either part, and something that neither had.
    context.write("m/0/f0", "changed").write("m/3/f3", "changed").write("new/f", "");
    std::fs::remove_file(context.join("m/1/f1")).unwrap();
    std::fs::remove_file(context.join("m/2/f2")).unwrap();
    let second = builder.build(&context).image();
    let texts = ["app/m/0/f0", "app/m/3/f3", "app/m/0/f4"].map(|path| second.text(path));
    assert_eq!(texts, ["changed", "changed", "as it was"]);
    assert_eq!(second.files().len(), first.files().len(), "two are new and two are gone");
    let is_there = |path| second.files().contains_key(path);
    assert_eq!(["app/m/1/f1", "app/m/2/f2", "app/new/f"].map(is_there), [false, false, true]);
    // Without a change nothing is looked at again, but whoever changes it back is noticed.
    assert!(ran(&builder, &context).is_empty());
    context.write("m/0/f0", "again");
    assert_eq!(builder.build(&context).image().text("app/m/0/f0"), "again");
}

#[test]
fn two_builds_at_once_run_a_step_once() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=cache,target=/c sleep 1; echo run >> /c/runs; cat /c/runs > /runs\n",
    );
    let other = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=cache,target=/c sleep 1; echo run >> /c/runs; cat /c/runs > /runs\n",
    );
    let outs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let builds = [&context, &other].into_iter().zip(&outs);
    let builds: Vec<_> = builds
        .map(|(context, out)| builder.build(context).arg("-o").arg(out.path()).spawn())
        .collect();
    for build in builds {
        let _ = build.finish().success();
    }
    for out in &outs {
        assert_eq!(std::fs::read_to_string(out.path().join("runs")).unwrap(), "run\n");
    }
}

#[test]
fn a_failed_step_is_not_remembered() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=cache,target=/c [ -e /c/second ] || { touch /c/second; exit 1; }\n",
    );
    let _ = builder.build(&context).run().failure();
    let _ = builder.build(&context).run().success();
}

#[test]
fn a_result_survives_a_restart() {
    let builder = Builder::plain();
    let context = context();
    let _ = ran(&builder, &context);
    let home = builder.stop();
    let builder = Builder::start_in(home, &cofferdam_tests::Options::default());
    assert!(ran(&builder, &context).is_empty());
    assert_eq!(builder.build(&context).image().text("b"), "1");
}
