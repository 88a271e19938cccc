//! Archives: hostile entries in layers and in what ADD unpacks.

use cofferdam_tests::{Context, Outcome, images};

use crate::attack::{Attack, BUILDER, Control, ONCE, own};
use crate::naive::{Bait, Evil, archive, evil, image, unpack};
use crate::planted::TEXT;
use crate::stage::Stage;

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "archives",
        "archive-links",
        "CVE-2026-17106, CVE-2014-6407: files below links to the host",
        ONCE,
        |stage| both(stage, "links", links),
        |_| harmed(links),
    ),
    own(
        "archives",
        "archive-dots",
        "CVE-2026-28406: names with dots, absolute names",
        ONCE,
        |stage| both(stage, "dots", dots),
        |_| harmed(dots),
    ),
    own(
        "archives",
        "archive-hard-links",
        "CVE-2025-29787: hard links to files outside",
        ONCE,
        |stage| both(stage, "hard", hard),
        |_| harmed(hard),
    ),
    own(
        "archives",
        "archive-modes",
        "CVE-2026-33056: a directory over a link changes the mode of its target",
        ONCE,
        |stage| both(stage, "modes", modes),
        |_| harmed(modes),
    ),
    own(
        "archives",
        "archive-whiteouts",
        "whiteouts that remove files outside",
        ONCE,
        |stage| both(stage, "whiteouts", whiteouts),
        |_| harmed(whiteouts),
    ),
    own(
        "archives",
        "archive-devices",
        "devices and false attributes of overlays in layers",
        BUILDER,
        devices,
        no_reader,
    ),
    own(
        "archives",
        "archive-sizes",
        "CVE-2025-62518: readers that disagree about sizes",
        ONCE,
        sizes,
        smuggled,
    ),
    own(
        "archives",
        "archive-bombs",
        "CVE-2017-14992: a small archive that is large",
        ONCE,
        bombs,
        inflated,
    ),
];

/// Entries that harm the directory `outside` when they are unpacked into another one by joined paths.
type Entries = fn(outside: &str) -> Vec<Vec<Evil>>;

fn links(outside: &str) -> Vec<Vec<Evil>> {
    vec![
        vec![evil('2', "l", outside), evil('0', "l/planted", "x")],
        vec![evil('2', "l", outside), evil('0', "l/file", "x")],
        vec![evil('2', "a", "b"), evil('2', "b", outside), evil('0', "a/planted", "x")],
        vec![evil('2', "f", &format!("{outside}/file")), evil('0', "f", "x")],
        vec![evil('5', "d", ""), evil('2', "d/l", outside), evil('5', "d/l/planted", "")],
        vec![evil('2', "l", outside), evil('2', "l/planted", "/etc")],
        vec![
            evil('2', "up", "../../../../../../../../../.."),
            evil('0', &format!("up{outside}/planted"), "x"),
        ],
    ]
}

fn dots(outside: &str) -> Vec<Vec<Evil>> {
    let up = "../".repeat(12);
    vec![
        vec![evil('0', &format!("{up}{}/planted", outside.trim_start_matches('/')), "x")],
        vec![
            evil('5', "a", ""),
            evil('0', &format!("a/../{up}{}/planted", outside.trim_start_matches('/')), "x"),
        ],
        vec![evil('0', &format!("./{up}{}/file", outside.trim_start_matches('/')), "x")],
        vec![
            evil('0', &format!("{outside}/planted"), "x"),
            evil('5', "..", ""),
            evil('5', ".", ""),
        ],
    ]
}

fn hard(outside: &str) -> Vec<Vec<Evil>> {
    let up = "../".repeat(12);
    let inside = outside.trim_start_matches('/');
    vec![
        vec![evil('1', "h", &format!("{up}{inside}/file")), evil('0', "h", "overwritten")],
        vec![evil('2', "l", outside), evil('1', "h", "l/file"), evil('0', "h", "overwritten")],
        vec![evil('1', "h", &format!("{outside}/file")), evil('0', "h", "overwritten")],
    ]
}

fn modes(outside: &str) -> Vec<Vec<Evil>> {
    let mut open = evil('5', "d", "");
    open.mode = 0o4777;
    vec![vec![evil('2', "d", outside), open]]
}

fn whiteouts(outside: &str) -> Vec<Vec<Evil>> {
    let up = "../".repeat(12);
    vec![
        vec![evil('2', "l", outside), evil('0', "l/.wh.file", "")],
        vec![evil('2', "l", outside), evil('0', "l/.wh..wh..opq", "")],
        vec![evil('0', &format!("{up}{}/.wh.file", outside.trim_start_matches('/')), "")],
        vec![evil('0', ".wh...", "")],
        vec![evil('0', ".wh.", "")],
    ]
}

/// Each archive by ADD and as a layer: nothing outside changes, and nothing of the host is in the result.
fn both(stage: &Stage, name: &str, entries: Entries) -> String {
    let outside = stage.planted.open();
    let (mut refused, mut total) = (0, 0);
    for (number, entries) in entries(outside.to_str().unwrap()).iter().enumerate() {
        let bytes = archive(entries);
        let layer = image(
            &format!("{name}-{}-{number}", stage.level),
            std::slice::from_ref(&bytes),
            |_| {},
        );
        let contexts = [
            Context::dockerfile(&format!(
                "FROM {layer}\nRUN ls -lR /l /h /d /f /up 2>/dev/null; cat /h /l/file /f; true\n"
            )),
            Context::new(&[("Dockerfile", &stage_text(&outside.display().to_string()))]),
        ];
        contexts[1].write("evil.tar", &bytes);
        for context in &contexts {
            let outcome = stage.builder.build(context).run();
            total += 1;
            refused += u32::from(outcome.code != Some(0));
            assert!(!outcome.stderr.contains(TEXT), "{name} {number}: {}", outcome.stderr);
            harmless(&outcome);
            stage.planted.unchanged();
        }
    }
    format!("{refused} of {total} archives refused, the others stayed inside")
}

/// Unpacked where the same path exists too, and next to a link that is there already.
fn stage_text(outside: &str) -> String {
    format!(
        "FROM @busybox\nRUN mkdir -p {outside} /in && echo inside > {outside}/file && ln -s {outside} /there\nADD evil.tar /in/\nADD evil.tar /there/\nRUN cat /in/h /in/l/file /in/f {outside}/file; true\n"
    )
}

fn harmless(outcome: &Outcome) {
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    assert!(outcome.code.is_some(), "ended by a signal: {}", outcome.stderr);
}

fn harmed(entries: Entries) -> Control {
    let mut seen = Vec::new();
    for number in 0..entries("/x").len() {
        let bait = Bait::new();
        let outside = bait.outside();
        let entries = entries(outside.to_str().unwrap()).swap_remove(number);
        seen.push(
            crate::attack::attempt(|| bait.harmed(|root| unpack(&archive(&entries), root))).is_ok(),
        );
    }
    let works = seen.iter().filter(|works| **works).count();
    assert!(works > 0, "none of the archives harms anybody");
    Control::Shown(format!("{works} of {} harm an unpacker that joins paths", seen.len()))
}

fn devices(stage: &Stage) -> String {
    let device = |kind: char, name: &str, numbers: (u32, u32)| Evil {
        device: numbers,
        mode: 0o666,
        ..evil(kind, name, "")
    };
    let with = |name: &str, key: &str, value: &str| {
        let mut entry = evil('5', name, "");
        entry.pax.push((format!("SCHILY.xattr.{key}"), value.to_owned()));
        entry
    };
    let entries = [
        device('4', "disk", (8, 0)),
        device('3', "mem", (1, 1)),
        device('3', "kmsg", (1, 11)),
        device('3', "whiteout", (0, 0)),
        with("opaque", "trusted.overlay.opaque", "y"),
        with("bin", "user.overlay.opaque", "y"),
        with("redirected", "user.overlay.redirect", "/../../.."),
        with("metacopy", "user.overlay.metacopy", ""),
    ];
    let mut said = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let from = image(
            &format!("devices-{}-{number}", stage.level),
            &[archive(std::slice::from_ref(entry))],
            |_| {},
        );
        let context = Context::dockerfile(&format!(
            "FROM {from}\nRUN for d in /disk /mem /kmsg; do (head -c 1 $d | wc -c) 2>/dev/null; done; ls /bin | wc -l; ls -l /redirected; true\n"
        ));
        let outcome = stage.builder.build(&context).run();
        harmless(&outcome);
        if outcome.code == Some(0) {
            let log = outcome.log("RUN for");
            assert!(
                !log.lines().any(|line| line.trim() == "1"),
                "{entry:?}: a device was read: {log}"
            );
            // An opaque directory hides what is below: here that would be every program.
            assert!(
                log.lines().any(|line| line.trim().parse::<u32>().is_ok_and(|count| count > 100)),
                "{entry:?}: {log}"
            );
        }
        said.push(outcome.code == Some(0));
    }
    format!(
        "{} of {} layers accepted, no device works, no attribute is believed",
        said.iter().filter(|good| **good).count(),
        said.len()
    )
}

fn no_reader(_: &Stage) -> Control {
    let root = tempfile::tempdir().unwrap();
    let node = root.path().join("mem");
    let script = format!("mknod {node} c 1 5 && head -c 1 {node} | wc -c", node = node.display());
    let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "1", "{said:?}");
    Control::Shown("a device that root unpacks can be read".to_owned())
}

/// A file whose two headers disagree about its size, with another entry in what one of them takes for content.
fn smuggling() -> Vec<u8> {
    let hidden = archive(&[evil('0', "hidden", "smuggled")]);
    let mut outer = evil('0', "harmless", "");
    outer.pax.push(("size".to_owned(), (hidden.len() - 1024).to_string()));
    let mut bytes = archive(&[outer]);
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(hidden);
    bytes
}

fn sizes(stage: &Stage) -> String {
    let bytes = smuggling();
    let from = image(&format!("sizes-{}", stage.level), std::slice::from_ref(&bytes), |_| {});
    let added =
        Context::new(&[("Dockerfile", "FROM @busybox\nADD evil.tar /in/\nRUN cat /in/hidden\n")]);
    added.write("evil.tar", &bytes);
    for context in [Context::dockerfile(&format!("FROM {from}\nRUN cat /hidden\n")), added] {
        let error = stage.builder.build(&context).run().failure();
        assert!(!error.contains("smuggled"), "{error}");
    }
    "refused".to_owned()
}

fn smuggled(_: &Stage) -> Control {
    // A reader of the older header only.
    let bytes = smuggling();
    let mut at = 0;
    let mut names = Vec::new();
    while at + 512 <= bytes.len() && bytes[at] != 0 {
        let text = |from: usize, to: usize| {
            String::from_utf8_lossy(&bytes[at + from..at + to]).trim_end_matches('\0').to_owned()
        };
        names.push(text(0, 100));
        let size = usize::from_str_radix(text(124, 135).trim(), 8).unwrap();
        at += 512 + size.next_multiple_of(512);
    }
    assert!(names.contains(&"hidden".to_owned()), "{names:?}");
    Control::Shown("a reader of one header sees a file that another does not".to_owned())
}

fn bomb(megabytes: usize) -> Vec<u8> {
    let mut entry = evil('0', "zeros", "");
    entry.text = "\0".repeat(megabytes << 20);
    archive(&[entry])
}

fn bombs(stage: &Stage) -> String {
    let plain = bomb(600);
    let packed = zstd::encode_all(plain.as_slice(), 1).unwrap();
    assert!(plain.len() / packed.len() > 2000, "{}", packed.len());
    let context = Context::new(&[("Dockerfile", "FROM scratch\nADD bomb.tar.zst /in/\n")]);
    context.write("bomb.tar.zst", &packed);
    let error = stage.builder.build(&context).run().failure();
    assert!(error.contains("Dockerfile:2"), "{error}");
    format!("{} bytes that become {} are refused", packed.len(), plain.len())
}

fn inflated(_: &Stage) -> Control {
    let packed = images::layer(&bomb(64));
    let plain = packed.plain().len();
    assert!(plain > 64 << 20);
    Control::Shown(format!("{} bytes become {plain} where nobody counts", packed.bytes.len()))
}
