//! What steps reach: metadata services, private ranges, names that lead there, and nothing at all.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cofferdam_tests::{Builder, Context, Process};

use crate::attack::{Attack, Control, EVERYWHERE, ONCE, own};
use crate::planted::Planted;
use crate::stage::{PROBE, Stage, context, options};

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "network",
        "metadata",
        "metadata services of clouds, by v4, v6 and mapped addresses",
        EVERYWHERE,
        metadata,
        in_reach,
    ),
    own(
        "network",
        "metadata-builder",
        "metadata services by way of the builder: FROM, ADD, git",
        ONCE,
        by_the_builder,
        in_reach,
    ),
    own(
        "network",
        "no-network",
        "CVE-2024-29018: names resolved from a step without network",
        EVERYWHERE,
        none,
        resolver,
    ),
    own(
        "network",
        "allowed-only",
        "a policy that allows one address allows no other",
        ONCE,
        allowed,
        allowed_one,
    ),
];

/// Where clouds answer, and ranges that are nobody's business.
const PLACES: &[&str] = &[
    "169.254.169.254:80",
    "169.254.170.2:80",
    "100.100.100.200:80",
    "[fd00:ec2::254]:80",
    "[::ffff:169.254.169.254]:80",
    "[64:ff9b::a9fe:a9fe]:80",
    "10.0.0.1:80",
    "192.168.0.1:80",
    "172.16.0.1:80",
    "100.64.0.1:80",
    "0.0.0.0:80",
    "255.255.255.255:80",
    "224.0.0.1:80",
    "[fe80::1]:80",
    "[::1]:80",
    "[ff02::1]:80",
];

/// A network namespace of its own in which the metadata service answers.
struct Cloud {
    holder: Process,
    _listener: Process,
}

impl Cloud {
    fn new() -> Self {
        let mut holder = Command::new("unshare");
        let script = "ip link set lo up && ip addr add 169.254.169.254/32 dev lo && ip addr add 10.0.0.1/32 dev lo && touch \"$1\" && exec sleep 600";
        let ready = tempfile::tempdir().unwrap();
        let mark = ready.path().join("ready");
        holder.args(["--net", "sh", "-c", script, "sh"]).arg(&mark).stdout(Stdio::null());
        let holder = Process::start(holder);
        wait(|| mark.exists());
        let listener = Process::start(within(&holder, &[PROBE, "listen", "169.254.169.254:80"]));
        let cloud = Self { holder, _listener: listener };
        wait(|| cloud.reach("169.254.169.254:80") == "reached");
        cloud
    }

    fn reach(&self, address: &str) -> String {
        let said = within(&self.holder, &[PROBE, "reach", address]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    }
}

/// A command in the network namespace of a process.
fn within(process: &Process, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", process.pid())).args(words);
    command
}

fn wait(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn metadata(stage: &Stage) -> String {
    let begun = Instant::now();
    let tries: String = PLACES
        .iter()
        .map(|place| format!("echo \"{place} $(/walls/probe reach {place})\" & "))
        .collect();
    let outcome = stage.run(&format!("RUN {tries} wait")).success();
    let log =
        outcome.steps().into_iter().rev().find(|step| step.name.contains("RUN ")).unwrap().log;
    for place in PLACES {
        let said = log
            .iter()
            .find(|line| line.starts_with(place))
            .unwrap_or_else(|| panic!("{place}: {log:?}"));
        assert!(!said.contains("reached") && !said.contains("connected"), "{said}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    format!("{} refused", PLACES.len())
}

fn in_reach(_: &Stage) -> Control {
    let cloud = Cloud::new();
    assert_eq!(cloud.reach("169.254.169.254:80"), "reached");
    Control::Shown("a process in the network of such a machine reaches it".to_owned())
}

/// The builder itself stands in a network where the service answers, and is asked to fetch from it.
fn by_the_builder(stage: &Stage) -> String {
    let cloud = Cloud::new();
    let mut options = options(stage.level);
    options.within =
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", cloud.holder.pid())].to_vec();
    let builder = Builder::start(&options);
    for text in [
        "FROM scratch\nADD http://169.254.169.254/latest/meta-data /m\n",
        "FROM 169.254.169.254:80/image:1\nRUN true\n",
        "FROM scratch\nADD http://169.254.169.254/repo.git /m\n",
        "FROM scratch\nADD http://[::ffff:169.254.169.254]/latest /m\n",
        "FROM scratch\nADD http://0xa9fea9fe/latest /m\n",
        "FROM scratch\nADD http://2852039166/latest /m\n",
    ] {
        let error = builder.build(&Context::dockerfile(text)).run().failure();
        assert!(!error.contains("meta-of-the-host"), "{text}: {error}");
        assert!(
            error.contains("denied")
                || error.contains("connect to server")
                || error.contains("policy")
                || error.contains("not allowed")
                || error.contains("refused"),
            "{text}: {error}"
        );
    }
    drop(builder);
    "refused for the builder as for steps".to_owned()
}

fn none(stage: &Stage) -> String {
    let outcome = stage.run("RUN --network=none /walls/probe reach 1.1.1.1:53; nslookup example.com; cat /etc/resolv.conf | grep -c nameserver; ls /sys/class/net; true").success();
    let log = outcome.log("RUN --network");
    assert!(
        !log.lines().any(|line| line == "reached")
            && !log.contains("Address 1: 93")
            && !log.to_lowercase().contains("name:"),
        "{log}"
    );
    "neither connected nor resolved".to_owned()
}

fn resolver(stage: &Stage) -> Control {
    let _ = stage;
    let cloud = Cloud::new();
    assert_eq!(cloud.reach("169.254.169.254:80"), "reached");
    Control::Shown("with an interface, a process connects".to_owned())
}

/// A builder that may reach one port of this machine, and somebody who listens there and on the next one.
struct Opened {
    builder: Builder,
    allowed: String,
    other: String,
    _listeners: [Process; 2],
}

fn opened(stage: &Stage) -> Option<Opened> {
    let own = Planted::get().own.clone();
    if own.starts_with("127.") {
        return None;
    }
    let port = || {
        std::net::TcpListener::bind((own.as_str(), 0)).unwrap().local_addr().unwrap().to_string()
    };
    let (allowed, other) = (port(), port());
    let listeners = [&allowed, &other].map(|address| {
        let mut command = Command::new(PROBE);
        command.args(["listen", address]);
        Process::start(command)
    });
    for address in [&allowed, &other] {
        wait(|| std::net::TcpStream::connect(address).is_ok());
    }
    let mut options = options(stage.level);
    options.config.push_str(&format!("[egress]\nallow = [\"{allowed}\"]\n"));
    Some(Opened { builder: Builder::start(&options), allowed, other, _listeners: listeners })
}

fn reach(builder: &Builder, address: &str) -> String {
    let context = context(&[], &format!("RUN echo \"said $(/walls/probe reach {address})\""));
    builder.build(&context).run().success().last_log("RUN ")
}

fn allowed(stage: &Stage) -> String {
    let Some(opened) = opened(stage) else {
        return "this machine has no address but loopback's".to_owned();
    };
    let said = reach(&opened.builder, &opened.other);
    assert!(!said.contains("said reached"), "{said}");
    "another port of the same address is refused".to_owned()
}

fn allowed_one(stage: &Stage) -> Control {
    let Some(opened) = opened(stage) else {
        return Control::Impossible("this machine has no address but loopback's");
    };
    let said = reach(&opened.builder, &opened.allowed);
    assert!(said.contains("said reached"), "{said}");
    Control::Shown("the allowed address is reached".to_owned())
}
