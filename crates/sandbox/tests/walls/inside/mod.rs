//! The builder's role: every case is one or more steps, tried from inside an enclosure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod confined;
mod filesystem;
mod gvisor;
mod joined;
mod kernel;
mod lifecycle;
mod process;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_sandbox::{Entered, Launcher, LauncherConfig, Runsc};

use crate::bench::Bench;

/// Nothing in here takes longer unless it hangs.
const CASE_LIMIT: Duration = Duration::from_secs(60);

/// Set in the environment of an enclosure whose steps run under gVisor.
pub(crate) const GVISOR: &str = "WALLS_GVISOR";

type Cases = &'static [(&'static str, Case)];

type Case = fn(Arc<Bench>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Cases of the other levels that say nothing under gVisor, and why.
const NOT_UNDER_GVISOR: &[(&str, &str)] = &[
    (
        "kernel::calls_are_denied",
        "the sentry answers, not the filter: see gvisor::calls_end_in_the_sentry",
    ),
    ("kernel::calls_work_without_the_filter", "the control of that"),
    ("kernel::sockets_are_denied", "likewise: see gvisor::sockets_end_in_the_sentry"),
    ("kernel::nested_namespaces_are_forbidden", "those a step makes are the sentry's own"),
    (
        "kernel::host_network_is_the_builders",
        "the sentry has names of its own for namespaces: see kernel::host_network_reaches_the_builder",
    ),
    ("kernel::networks_are_given_once", "likewise"),
    ("process::is_the_first_to_go_for_memory", "the sentry's /proc has values of its own"),
    (
        "process::signals_are_default",
        "the sentry's /proc does not tell, and runsc hands nothing on",
    ),
];

macro_rules! cases {
    ($module:literal: $($name:ident),* $(,)?) => {
        &[ $( (concat!($module, "::", stringify!($name)), |bench| Box::pin($name(bench))) ),* ]
    };
}
pub(crate) use cases;

fn all(under_gvisor: bool) -> Vec<(&'static str, Case)> {
    // Under gVisor a step has one process, and no terminal.
    let own: Cases = if under_gvisor { gvisor::CASES } else { joined::CASES };
    [filesystem::CASES, kernel::CASES, lifecycle::CASES, process::CASES, own]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

pub(crate) fn main(entered: Entered, args: &[String]) -> ExitCode {
    let role = args.get(1).map_or("cases", String::as_str);
    if let "confined" | "unconfined" = role {
        return confined::main(&entered, role == "confined");
    }
    let gvisor = std::env::var_os(GVISOR).map(|_| Runsc::find().unwrap());
    let known = gvisor.clone();
    let config =
        LauncherConfig { helpers: 2, ids: entered.ids, cgroup: entered.cgroup.clone(), gvisor };
    let preforked = Launcher::prefork(config).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let launcher = preforked.attach(runtime.handle()).unwrap();
    let bench = Arc::new(Bench::new(launcher, entered, known));
    match role {
        "cases" => runtime.block_on(run_all(&bench, args.get(2).map(String::as_str))),
        "measure" => runtime.block_on(lifecycle::measure(&bench)),
        "smoke" => runtime.block_on(lifecycle::smoke(&bench)),
        "hold" => runtime.block_on(lifecycle::hold(&bench)),
        other => {
            eprintln!("unknown role {other}");
            ExitCode::FAILURE
        }
    }
}

/// Why a case says nothing at this level.
fn not_applicable(bench: &Bench, name: &str) -> Option<&'static str> {
    if !bench.under_gvisor() {
        return None;
    }
    let known = |(case, _): &&(&str, &str)| name.ends_with(case);
    NOT_UNDER_GVISOR.iter().find(known).map(|(_, reason)| *reason)
}

async fn run_all(bench: &Arc<Bench>, filter: Option<&str>) -> ExitCode {
    let mut failed = 0;
    for (name, case) in all(bench.under_gvisor()) {
        let name = if bench.under_gvisor() { format!("gvisor::{name}") } else { name.to_owned() };
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        if let Some(reason) = not_applicable(bench, &name) {
            println!("test {name} ... does not apply: {reason}");
            continue;
        }
        let started = Instant::now();
        let task = tokio::spawn(tokio::time::timeout(CASE_LIMIT, case(Arc::clone(bench))));
        let outcome = match task.await {
            Ok(Ok(())) => "ok",
            Ok(Err(_)) => "TIMED OUT",
            Err(_) => "FAILED",
        };
        println!("test {name} ... {outcome} ({} ms)", started.elapsed().as_millis());
        failed += u32::from(outcome != "ok");
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
