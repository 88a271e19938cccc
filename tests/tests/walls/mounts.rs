//! Mounts of steps and copies between them: sources, destinations and what is cleaned up, with links and races.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_tests::Context;

use crate::attack::{Attack, BUILDER, Control, EVERYWHERE, Level, ONCE, own};
use crate::naive::Bait;
use crate::planted::TEXT;
use crate::stage::{PROBE, Stage};

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "mounts",
        "cache-source-race",
        "CVE-2024-23651: the source of a cache mount becomes a link while it is mounted",
        EVERYWHERE,
        source_race,
        naive_race,
    ),
    own(
        "mounts",
        "mount-parent-race",
        "CVE-2021-30465, CVE-2019-19921: the parent of a mount becomes a link while it is made",
        BUILDER,
        parent_race,
        naive_race,
    ),
    own(
        "mounts",
        "mount-destination",
        "CVE-2024-45310: mounts onto links to the host",
        BUILDER,
        destinations,
        naive_mkdir,
    ),
    own(
        "mounts",
        "stub-cleanup",
        "CVE-2024-23652: mount points are removed through a link",
        BUILDER,
        stubs,
        naive_remove,
    ),
    own(
        "mounts",
        "bind-source",
        "CVE-2024-1753: a bind mount whose source is a link to /",
        BUILDER,
        bind_source,
        naive_read,
    ),
    own(
        "mounts",
        "secret-destination",
        "CVE-2024-9341: /run/secrets is a link to the host",
        BUILDER,
        secret_destination,
        naive_secret,
    ),
    own(
        "mounts",
        "mount-options",
        "CVE-2024-9407: options of mounts inside other options",
        ONCE,
        options,
        injected,
    ),
    own("mounts", "cache-names", "names of caches that are paths", ONCE, cache_names, naive_names),
    own(
        "mounts",
        "copy-source",
        "GHSA-vp35-85q5-9f25: COPY through links of a stage or the context",
        BUILDER,
        copy_source,
        naive_read,
    ),
    own(
        "mounts",
        "copy-destination",
        "CVE-2018-15664: COPY and ADD onto links to the host",
        BUILDER,
        copy_destination,
        naive_write,
    ),
    own(
        "mounts",
        "export-links",
        "CVE-2025-9566: a result of links, written to a directory",
        BUILDER,
        export_links,
        naive_write,
    ),
    own(
        "mounts",
        "special-files",
        "a Dockerfile or ignore file that is a pipe",
        ONCE,
        special_files,
        endless,
    ),
];

/// Swaps in one build while other builds mount; gives how often they did.
fn race(stage: &Stage, id: &str, mount: &str) -> String {
    // What is emulated is slower, and loses races all the same.
    let (seconds, least) = if stage.level == Level::Vm { (10, 1) } else { (4, 4) };
    let target = stage.planted.open();
    let target = target.display();
    let swap = stage
        .build(&format!(
            "RUN --mount=type=cache,id={id},target=/c mkdir -p /c/a && echo mine > /c/a/mine; /walls/probe swap /c/a {target} {seconds}"
        ))
        .args("--no-cache")
        .spawn();
    swap.wait_for("walls/probe swap");
    let begun = Instant::now();
    let (mut mounted, mut refused) = (0, 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let steps: String = (0..2)
            .map(|number| format!("RUN {mount} : {number} {}; ls -A /m; cat /m/file; cat /c/a/file; echo x > /m/planted; mkdir -p /m/deep/er; true\n", mounted + refused))
            .collect();
        let outcome = stage.run(&steps);
        let said = outcome.stderr.replace(&steps, "");
        assert!(!said.contains(TEXT), "{said}");
        if outcome.code == Some(0) { mounted += 2 } else { refused += 1 }
    }
    let outcome = swap.finish().success();
    assert!(outcome.stderr.contains("swapped "), "control: it swapped: {}", outcome.stderr);
    let swapped = outcome
        .stderr
        .split("swapped ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("0")
        .to_owned();
    assert!(mounted + refused >= least, "{mounted} {refused}");
    format!(
        "swapped {swapped} times; {mounted} mounts made and {refused} builds refused, none outside"
    )
}

fn source_race(stage: &Stage) -> String {
    race(stage, "source-race", "--mount=type=cache,id=source-race,source=a,target=/m")
}

fn parent_race(stage: &Stage) -> String {
    race(
        stage,
        "parent-race",
        "--mount=type=cache,id=parent-race,target=/c --mount=type=cache,id=inner,target=/c/a/deep/er --mount=type=tmpfs,target=/c/a/t --mount=type=bind,target=/m",
    )
}

fn naive_race(_: &Stage) -> Control {
    let bait = Bait::new();
    let path = bait.root().join("a");
    fs::create_dir(&path).unwrap();
    let mut swap = Command::new(PROBE)
        .arg("swap")
        .args([&path, &bait.outside()])
        .arg("2")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut reached = 0;
    while swap.try_wait().unwrap().is_none() {
        // Looks first, and uses the path afterwards.
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            reached += u32::from(
                fs::read_to_string(path.join("file")).is_ok_and(|text| text.contains(TEXT)),
            );
        }
    }
    assert!(reached > 0, "the control never loses the race");
    Control::Shown(format!("looking first and using the path later loses the race {reached} times"))
}

fn destinations(stage: &Stage) -> String {
    let target = stage.planted.open();
    let target = target.display();
    let outcome = stage
        .run(&format!(
            "RUN ln -s {target} /a && ln -s /a /b && ln -s ../../../..{target} /rel\n\
             RUN --mount=type=cache,target=/a/one --mount=type=tmpfs,target=/b/two/deep --mount=type=bind,target=/rel/three touch /a/one/x /b/two/deep/x; ls -A {target}"
        ))
        .success();
    let log = outcome.log("RUN --mount");
    assert!(
        log.contains("one") && log.contains("two") && log.contains("three"),
        "they are made inside: {log}"
    );
    "made inside the root, where the links lead there".to_owned()
}

fn naive_mkdir(_: &Stage) -> Control {
    let bait = Bait::new();
    let outside = bait.outside();
    Control::Shown(bait.harmed(|root| {
        symlink(&outside, root.join("a")).unwrap();
        fs::create_dir_all(root.join("a/one")).unwrap();
    }))
}

fn stubs(stage: &Stage) -> String {
    let target = stage.planted.open();
    let target = target.display();
    // The same names are outside: empty directories, which a careless clean-up removes.
    for change in [
        "mv /a /away; ln -s {} /a",
        "mv /a/b /away; ln -s {}/b /a/b",
        "rm -rf /a/b/c; mv /a /away; ln -s {} /a",
    ] {
        let change = change.replace("{}", &target.to_string());
        let outcome = stage.run(&format!(
            "RUN mkdir -p /a\nRUN --mount=type=tmpfs,target=/a/b/c --mount=type=cache,target=/a/b/d {change}; ls -ld /a"
        ));
        assert!(outcome.stderr.contains(" /a"), "control: the step ran: {}", outcome.stderr);
    }
    stage.planted.unchanged();
    "mount points outside stay".to_owned()
}

fn naive_remove(_: &Stage) -> Control {
    let bait = Bait::new();
    let outside = bait.outside();
    Control::Shown(bait.harmed(|root| {
        symlink(&outside, root.join("a")).unwrap();
        fs::remove_dir(root.join("a/b/c")).unwrap();
    }))
}

fn bind_source(stage: &Stage) -> String {
    let canary = stage.planted.closed().join("file");
    let canary = canary.display();
    for link in ["/", "../../../../../..", "/proc/1/root", "/proc/self/cwd"] {
        let outcome = stage.run(&format!(
            "RUN ln -s {link} /x\nFROM @busybox\nRUN --mount=type=bind,from=0,source=/x,target=/host,rw ls -A /host; cat /host{canary}; echo x > /host{canary}; true"
        ).replace("@busybox", &cofferdam_tests::images::busybox()));
        assert!(!outcome.stderr.contains(TEXT), "{link}: {}", outcome.stderr);
        assert!(
            outcome.code != Some(0) || outcome.stderr.contains("of the step"),
            "{link}: {}",
            outcome.stderr
        );
    }
    "the stage's own root, or refused".to_owned()
}

fn naive_read(stage: &Stage) -> Control {
    let bait = Bait::new();
    symlink("/", bait.root().join("x")).unwrap();
    let canary = stage.planted.closed().join("file");
    let path = format!("{}/x{}", bait.root().display(), canary.display());
    assert!(fs::read_to_string(path).unwrap().contains(TEXT));
    Control::Shown("a tool that joins paths reads the host's file".to_owned())
}

fn secret_destination(stage: &Stage) -> String {
    let target = stage.planted.open();
    let target = target.display();
    let outcome = stage
        .build(&format!(
            "RUN mkdir -p /run && rm -rf /run/secrets && ln -s {target} /run/secrets\n\
             RUN --mount=type=secret,id=s wc -c < /run/secrets/s; ls -A {target}"
        ))
        .args("--secret id=s,env=S")
        .env("S", "seven77")
        .run();
    assert!(
        outcome.code != Some(0) || outcome.log("RUN --mount").contains('7'),
        "{}",
        outcome.stderr
    );
    "the secret is inside the step's root, or refused".to_owned()
}

fn naive_secret(_: &Stage) -> Control {
    let bait = Bait::new();
    let outside = bait.outside();
    Control::Shown(bait.harmed(|root| {
        symlink(&outside, root.join("secrets")).unwrap();
        fs::write(root.join("secrets/s"), "a secret").unwrap();
    }))
}

fn options(stage: &Stage) -> String {
    let mounts = [
        "type=bind,bind-propagation=rshared,target=/m",
        "type=tmpfs,target=/m,options=dev",
        "type=cache,target=/m,sharing=shared:exec",
        "type=bind,target=/m,from=0,source=/,readonly=maybe",
        "type=tmpfs,target=/m,size=1m,mode=7777,dev",
        "type=proc,target=/m",
        "type=devpts,target=/m",
        "type=npipe,target=/m",
        "type=cache,target=/m,mode=999",
        "type=cache,target=/m,uid=4294967296",
    ];
    for mount in mounts {
        let error = stage.run(&format!("RUN --mount={mount} true")).failure();
        assert!(error.contains("Dockerfile:"), "{mount}: {error}");
    }
    format!("{} refused", mounts.len())
}

fn injected(_: &Stage) -> Control {
    let root = tempfile::tempdir().unwrap();
    // As if the value of an option were handed on.
    let script = format!(
        "mount -t tmpfs -o size=1m,{} none {root} && grep {root} /proc/self/mountinfo",
        "mode=777,dev",
        root = root.path().display()
    );
    let said = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("mode=777") && !said.contains("nodev"), "{said}");
    Control::Shown("mount(8) takes options out of a value".to_owned())
}

fn cache_names(stage: &Stage) -> String {
    let target = stage.planted.open();
    for id in [
        format!("../../../../../..{}/c", target.display()),
        "/etc".into(),
        "..".into(),
        ".".into(),
        "a/b/c".into(),
        "x".repeat(5000),
    ] {
        let build = stage.build(&format!(
            "RUN --mount=type=cache,id={id},target=/c ls -A /c | wc -l; touch /c/x"
        ));
        let outcome = build.args("--no-cache").run();
        // A name is only a key: whatever it is, the directory is new and empty.
        assert!(
            outcome.code != Some(0) || outcome.log("RUN --mount") == "0",
            "{id}: {}",
            outcome.stderr
        );
    }
    "names are keys, not paths".to_owned()
}

fn naive_names(_: &Stage) -> Control {
    let bait = Bait::new();
    Control::Shown(bait.harmed(|root| fs::create_dir_all(root.join("../outside/c")).unwrap()))
}

fn copy_source(stage: &Stage) -> String {
    let canary = stage.planted.closed();
    let dir = canary.display();
    for (what, copy) in [
        ("a file through a link", "COPY --from=evil /l/file /out/\n".to_owned()),
        ("all through a link", "COPY --from=evil /l/ /out/\n".to_owned()),
        ("up", "COPY --from=evil /up/file /out/\n".to_owned()),
        (
            "through the first process",
            "COPY --from=evil /proc/1/root/etc/hostname /out/\n".to_owned(),
        ),
        ("a pattern", "COPY --from=evil /l/fi* /out/\n".to_owned()),
    ] {
        let text = format!("RUN ln -s {dir} /l; ln -s ../../../../../../../..{dir} /up\n");
        let context = stage.context(&text);
        let file = context.join("Dockerfile");
        let base = fs::read_to_string(&file).unwrap().replacen(
            "FROM ",
            "FROM --platform=$BUILDPLATFORM ",
            0,
        );
        let (first, rest) = base.split_once('\n').unwrap();
        fs::write(&file, format!("{first} AS evil\n{rest}FROM scratch\n{copy}")).unwrap();
        let outcome = stage.builder.build(&context).args("--output type=tar,dest=-").run();
        assert!(!String::from_utf8_lossy(&outcome.stdout).contains(TEXT), "{what}");
        assert!(
            outcome.code != Some(0)
                || what.contains("pattern")
                || String::from_utf8_lossy(&outcome.stdout).contains("of the step"),
            "{what}: {}",
            outcome.stderr
        );
    }
    let context = Context::new(&[("Dockerfile", "FROM scratch\nCOPY l/file /out/\n")]);
    context.link("l", canary.to_str().unwrap());
    let error = stage.builder.build(&context).run().failure();
    assert!(error.contains("not found"), "{error}");
    "resolved inside the stage or the context".to_owned()
}

fn copy_destination(stage: &Stage) -> String {
    let target = stage.planted.open();
    let target = target.display();
    let outcome = stage.run(&format!(
        "RUN ln -s {target} /l; ln -s {target}/file /f; ln -s ../../../../../..{target} /up\n\
         COPY rootfs/walls/read-only /l/planted\nCOPY rootfs/walls/read-only /f\nCOPY rootfs/walls /up/\nADD rootfs/walls/read-only /l/deep/er/\nRUN ls -A {target}"
    ));
    assert!(
        outcome.code != Some(0) || outcome.stderr.contains("planted"),
        "it lands inside: {}",
        outcome.stderr
    );
    "lands inside the root".to_owned()
}

fn naive_write(_: &Stage) -> Control {
    let bait = Bait::new();
    let outside = bait.outside();
    Control::Shown(bait.harmed(|root| {
        symlink(&outside, root.join("l")).unwrap();
        fs::write(root.join("l/planted"), "x").unwrap();
    }))
}

fn export_links(stage: &Stage) -> String {
    let target = stage.planted.open();
    let (outcome, out) = stage
        .build(&format!(
            "RUN mkdir -p /result/d && echo x > /result/d/planted && ln -s {target} /result/link && ln -s ../../../../.. /result/up && ln -s {target}/file /result/file\nFROM scratch\nCOPY --from=0 /result /",
            target = target.display()
        ))
        .local();
    let kind = |name: &str| out.path().join(name).symlink_metadata().unwrap().file_type();
    assert!(
        kind("link").is_symlink() && kind("up").is_symlink() && kind("file").is_symlink(),
        "{}",
        outcome.stderr
    );
    // The same again, with a directory where there is a link now.
    let again = stage.builder.build(&Context::new(&[
        ("Dockerfile", "FROM scratch\nCOPY link /link\n"),
        ("link/planted", "x"),
        ("link/file", "x"),
    ]));
    let again =
        again.arg("--output").arg(format!("type=local,dest={}", out.path().display())).run();
    stage.planted.unchanged();
    format!(
        "links stay links; over a link: {}",
        if again.code == Some(0) { "replaced" } else { "refused" }
    )
}

fn special_files(stage: &Stage) -> String {
    let begun = Instant::now();
    for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
        let context = Context::dockerfile("FROM scratch\nCOPY . /\n");
        let path = context.join(name);
        fs::remove_file(&path).ok();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let outcome = stage.builder.build(&context).run();
        assert!(name != "Dockerfile" || outcome.code != Some(0), "{name}: {}", outcome.stderr);
    }
    let context = Context::new(&[(".dockerignore", "")]);
    context.link("Dockerfile", "/dev/zero");
    let _ = stage.builder.build(&context).run().failure();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    "nobody waits".to_owned()
}

fn endless(_: &Stage) -> Control {
    let dir = tempfile::tempdir().unwrap();
    let script = "mkfifo Dockerfile; timeout 1 cat Dockerfile; echo $?";
    let said = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "124\n");
    Control::Shown("a reader of a pipe waits for ever".to_owned())
}
