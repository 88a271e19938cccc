//! What would take time, memory or disk from others, and the processes that stand for a kernel.

use std::fs;
use std::time::{Duration, Instant};

use cofferdam_tests::{Builder, Context, leftovers};

use crate::attack::{Attack, Control, Level, ONCE, own};
use crate::stage::{Stage, options};

/// Where a process of ours stands between a step and the machine's kernel.
const MONITORED: &[Level] = &[Level::Gvisor, Level::Vm];
const STEPS: &[Level] = &[Level::Namespaces, Level::Gvisor];

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "resources",
        "monitors",
        "CVE-2021-3592 and others: what a fault of gVisor or QEMU would give",
        MONITORED,
        monitors,
        of_the_host,
    ),
    own("resources", "fork-bomb", "processes without end", STEPS, forks, unlimited_forks),
    own("resources", "memory-bomb", "memory without end", STEPS, memory, unlimited_memory),
    own(
        "resources",
        "dockerfile-bombs",
        "expansion, stages, patterns and lines without end",
        ONCE,
        dockerfiles,
        small,
    ),
    own(
        "resources",
        "terminal-control",
        "escape sequences by output, instructions and a registry's errors",
        ONCE,
        terminals,
        raw,
    ),
    own("resources", "log-flood", "output without end", ONCE, logs, few_lines),
];

/// What a process is, its host id and the mode of its filter.
type Told = (String, u32, String);

/// Each process below a builder's supervisor.
fn processes(builder: &Builder) -> Vec<Told> {
    let tree = leftovers::tree(builder.pid());
    let told = |pid: &i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().next()?.to_owned())
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((words.chars().take(60).collect(), field("Uid:")?.parse().ok()?, field("Seccomp:")?))
    };
    tree.keys().filter_map(told).collect()
}

fn monitors(stage: &Stage) -> String {
    let build = stage.build("RUN echo it-runs; sleep 20").spawn();
    build.wait_for("it-runs\n");
    let seen = processes(&stage.builder);
    build.interrupt();
    let _ = build.finish();
    let kind = if stage.level == Level::Vm { "qemu-system" } else { "runsc" };
    let found: Vec<&Told> = seen.iter().filter(|(words, ..)| words.contains(kind)).collect();
    assert!(!found.is_empty(), "control: none was seen among {seen:?}");
    for (words, owner, filter) in &found {
        assert_ne!(*owner, 0, "{words} is root of the host");
        assert_eq!(filter, "2", "{words} is not filtered: {found:?}");
    }
    format!("{} processes, none as root, all filtered", found.len())
}

fn of_the_host(_: &Stage) -> Control {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.contains("Uid:\t0\t"), "{status}");
    Control::Shown("the same look at this process sees root of the host".to_owned())
}

/// A builder whose steps may have this much.
fn limited(stage: &Stage, limits: &str) -> Builder {
    let mut options = options(stage.level);
    options.config.push_str(&format!("[limits.step]\n{limits}\n"));
    Builder::start(&options)
}

fn says(builder: &Builder, command: &str) -> (Option<i32>, String) {
    let outcome = builder
        .build(&Context::dockerfile(&format!("FROM @busybox\nRUN {command}\n")))
        .args("--no-cache")
        .run();
    (outcome.code, outcome.stderr)
}

/// Goes on as long as it can start another process; says how many it had at most.
const FORK: &str = "i=0; while [ $i -lt 400 ]; do sleep 30 & i=$((i+1)); done; echo \"had $(ls -d /proc/[0-9]* | wc -l)\"";

fn forks(stage: &Stage) -> String {
    let builder = limited(stage, "pids = 60");
    let (code, said) = says(&builder, FORK);
    assert!(code != Some(0) || !said.contains("had 4"), "{said}");
    let (code, said) = says(&builder, "echo alive");
    assert_eq!(code, Some(0), "the next build: {said}");
    "the step ends, the next one runs".to_owned()
}

fn unlimited_forks(stage: &Stage) -> Control {
    let (code, said) = says(&stage.builder, FORK);
    assert!(code == Some(0) && said.contains("had 4"), "{said}");
    Control::Shown("without a limit it has 400".to_owned())
}

/// Takes 300 MiB.
const TAKE: &str = "dd if=/dev/zero of=/dev/null bs=300M count=1 && echo took-\"it\"";

fn memory(stage: &Stage) -> String {
    let builder = limited(stage, "memory = \"100MiB\"");
    let (code, said) = says(&builder, TAKE);
    assert!(code != Some(0) || !said.contains(" took-it\n"), "{said}");
    let (code, said) = says(&builder, "echo alive");
    assert_eq!(code, Some(0), "the next build: {said}");
    "the step ends, the next one runs".to_owned()
}

fn unlimited_memory(stage: &Stage) -> Control {
    let (code, said) = says(&stage.builder, TAKE);
    assert!(code == Some(0) && said.contains(" took-it\n"), "{said}");
    Control::Shown("without a limit it has 300 MiB".to_owned())
}

fn dockerfiles(stage: &Stage) -> String {
    let begun = Instant::now();
    let mut doubling = "FROM scratch\nARG A0=xxxxxxxxxxxxxxxx\n".to_owned();
    for number in 1..40 {
        doubling.push_str(&format!("ARG A{number}=${{A{}}}${{A{0}}}\n", number - 1));
    }
    let stages: String = (0..60_000).map(|number| format!("FROM scratch AS s{number}\n")).collect();
    for (what, text) in [
        ("doubling", doubling + "LABEL a=$A39\n"),
        ("stages", stages),
        ("a long line", format!("FROM scratch\nLABEL a={}\n", "x".repeat(900_000))),
        ("a long file", "# x\n".repeat(1 << 20)),
        (
            "nesting",
            format!("FROM scratch\nLABEL a={}b{}\n", "${a:-".repeat(20_000), "}".repeat(20_000)),
        ),
    ] {
        let outcome = stage.builder.build(&Context::dockerfile(&text)).run();
        assert_ne!(outcome.code, Some(0), "{what} was accepted");
        assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    }
    let context = Context::new(&[
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        (".dockerignore", &format!("{}b\n", "*a".repeat(40))),
    ]);
    context.write(&"a".repeat(200), "x");
    let _ = stage.builder.build(&context).run();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    format!("done after {:.1}s", begun.elapsed().as_secs_f64())
}

fn small(stage: &Stage) -> Control {
    let context = Context::dockerfile("FROM scratch\nARG A0=x\nARG A1=${A0}${A0}\nLABEL a=$A1\n");
    let image = stage.builder.build(&context).image();
    assert_eq!(image.setting("Labels")["a"], "xx");
    Control::Shown("two of forty expansions work".to_owned())
}

const FLOOD: &str = "yes 0123456789012345678901234567890123456789 | head -c 40000000; echo the-end";

fn logs(stage: &Stage) -> String {
    let (_, said) = says(&stage.builder, FLOOD);
    assert!(said.len() < 25_000_000, "{} bytes", said.len());
    format!("40000000 bytes become {}", said.len())
}

fn few_lines(stage: &Stage) -> Control {
    let (code, said) = says(&stage.builder, "seq 1000");
    assert!(code == Some(0) && said.contains(" 1000\n"), "{said}");
    Control::Shown("a thousand lines are all there".to_owned())
}

/// Clears the screen, sets the title, goes to the start of the line, and the same in one byte.
const ESCAPES: &str = "\u{1b}[2J\u{1b}]0;evil\u{7}\r\u{9b}2J";

fn terminals(stage: &Stage) -> String {
    let lying = cofferdam_tests::http::Server::start(|_| {
        let body = format!(
            "{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"seen{}\"}}]}}",
            ESCAPES.replace('\u{1b}', "\\u001b").replace('\u{7}', "\\u0007").replace('\r', "\\r")
        );
        cofferdam_tests::http::Response { status: 403, ..cofferdam_tests::http::Response::ok(body) }
    });
    let texts = [
        format!(
            "FROM @busybox\nRUN printf 'seen{ESCAPES}\\n'; printf 'seen\\033[2J\\033]0;evil\\007\\n' >&2\n"
        ),
        format!("FROM @busybox\nLABEL a=\"{ESCAPES}\"\nCOPY seen{ESCAPES} /x\n"),
        format!("FROM @busybox AS seen\nRUN exit 3 # {ESCAPES}\n"),
        format!("FROM {}/seen:1\nRUN true\n", lying.address()),
        format!("FROM @busybox\nNOSUCH{ESCAPES} seen\n"),
    ];
    for text in &texts {
        let outcome = stage.builder.build(&Context::dockerfile(text)).args("--no-cache").run();
        assert!(
            outcome.stderr.contains("seen") || outcome.stderr.contains("NOSUCH"),
            "control: it is shown: {}",
            outcome.stderr
        );
        for line in outcome.stderr.lines() {
            let bad = line.replace("\u{1b}[0m", "").chars().find(|c| c.is_control() && *c != '\t');
            assert_eq!(bad, None, "{text:?}: {line:?}");
        }
    }
    format!("{} ways, none reaches a terminal", texts.len())
}

fn raw(_: &Stage) -> Control {
    let said = std::process::Command::new("printf").arg(ESCAPES).output().unwrap();
    assert!(said.stdout.contains(&0x1b));
    Control::Shown("printed by a program of the host they do".to_owned())
}
