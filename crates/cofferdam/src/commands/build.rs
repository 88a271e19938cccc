//! `cofferdam build`: an ordinary client of a builder, which starts one for itself when it is told of none;
//! or a client of a server, which gives it one.

mod arguments;
mod attributes;
mod context;
mod hosted;
mod load;
mod outputs;
mod own;
mod place;
mod report;
mod session;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use cofferdam_client::options::parse_cache;
use cofferdam_client::progress::{Progress, ProgressMode as Mode, Summary};
use cofferdam_client::{CacheDirectories, CacheEntry, Client, Solve, SolveError, Solved};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use arguments::BuildArgs;
use arguments::{DisplayArgs, ProgressMode};
use context::Sources;
use hosted::HostedBuild;
use load::Loader;
use outputs::Outputs;
use own::OwnBuilder;
use place::Place;

use crate::terminal::note;

/// The frontend that reads Dockerfiles.
const FRONTEND: &str = "dockerfile.v0";

/// Carries the command out.
pub(crate) fn run(args: BuildArgs) -> anyhow::Result<ExitCode> {
    super::builder::install_cryptography();
    let level =
        if args.display.debug { crate::logging::Level::Debug } else { crate::logging::Level::Warn };
    crate::logging::start(level, crate::logging::Format::Text);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(build(args));
    // A read of standard input that nobody wants any more must not keep the process.
    runtime.shutdown_background();
    result
}

/// Everything that is settled before a builder is needed.
struct Order {
    solve: Solve,
    sources: Sources,
    outputs: Outputs,
    loader: Option<Loader>,
    caches: CacheDirectories,
}

async fn build(args: BuildArgs) -> anyhow::Result<ExitCode> {
    let order = prepare(&args).await?;
    let cancel = cancelled_by_signals()?;
    match Place::of(&args, crate::remote::variable) {
        Place::Address(address) => {
            let client = Client::connect(&address).await?;
            carry_out(&client, order, &args, cancel).await?;
        }
        Place::Server => on_server(order, &args, cancel).await?,
        Place::Here => {
            let mut own = OwnBuilder::start(&args.builder, &args.display)?;
            let built = async {
                let client = tokio::select! {
                    client = own.connect() => client?,
                    () = cancel.cancelled() => return Err(SolveError::Canceled.into()),
                };
                solve(&client, order, &args.display, cancel).await
            };
            let built = built.await;
            own.stop().await;
            let (solved, summary, order) = built?;
            conclude(order, &args, &solved, &summary).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the build on a builder of a server, which is told how it ended.
async fn on_server(
    mut order: Order,
    args: &BuildArgs,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let hosted = HostedBuild::begin(args, &order.outputs, &cancel).await?;
    if !hosted.url().is_empty() && !silent(&args.display) {
        note(&format!("Build: {}", hosted.url()));
    }
    let built = async {
        if args.server.saves() {
            order.outputs.save(hosted.save_names()?);
            order.solve.exporters = order.outputs.exporters();
            let services = std::mem::take(&mut order.solve.services);
            order.solve.services = services.credentials(session::credentials(hosted.logins())?);
        }
        let client = hosted.connect(&cancel).await?;
        carry_out(&client, order, args, cancel).await
    };
    let built = built.await;
    hosted.finish(&built).await;
    built
}

/// Runs the build on a builder and does with its outputs what was asked for.
async fn carry_out(
    client: &Client,
    order: Order,
    args: &BuildArgs,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (solved, summary, order) = solve(client, order, &args.display, cancel).await?;
    conclude(order, args, &solved, &summary).await
}

/// Everything that is left when the builder is done.
async fn conclude(
    order: Order,
    args: &BuildArgs,
    solved: &Solved,
    summary: &Summary,
) -> anyhow::Result<()> {
    order.caches.finish(&solved.response)?;
    let loaded = match order.loader {
        Some(loader) => Some(loader.finish().await?),
        None => None,
    };
    report::write(&args.outputs, &solved.response)?;
    tell(&args.display, &order.outputs, solved, summary, loaded);
    drop(order.sources);
    Ok(())
}

/// Reads everything the arguments name, so that mistakes are found before anything is started.
async fn prepare(args: &BuildArgs) -> anyhow::Result<Order> {
    let attributes = attributes::attributes(args, |name| std::env::var(name).ok())?;
    let outputs = Outputs::plan(args, std::io::stdout().is_terminal())?;
    let mut imports = caches("--cache-from", &args.caches.cache_from)?;
    let mut exports = caches("--cache-to", &args.caches.cache_to)?;
    let inline = attributes.frontend.get("build-arg:BUILDKIT_INLINE_CACHE");
    if inline.is_some_and(|value| matches!(value.as_str(), "1" | "true")) {
        exports.push(inline_cache());
    }
    let services = session::offers(&args.inputs)?;
    let mut sources = Sources::find(args).await?;
    let services = sources.offer(services)?;
    let (caches, services) = CacheDirectories::prepare(&mut imports, &mut exports, services)?;
    let (services, loader) = session::targets(&outputs, services).await?;
    let mut frontend_attrs = attributes.frontend;
    frontend_attrs.append(&mut sources.attrs);
    let solve = Solve {
        frontend: FRONTEND.to_owned(),
        frontend_attrs,
        exporters: outputs.exporters(),
        cache_imports: imports,
        cache_exports: exports,
        entitlements: attributes.entitlements,
        services,
        shared_key: sources.shared_key.clone(),
        ..Solve::default()
    };
    Ok(Order { solve, sources, outputs, loader, caches })
}

fn caches(option: &'static str, texts: &[String]) -> anyhow::Result<Vec<CacheEntry>> {
    texts
        .iter()
        .map(
            |text| {
                if text == "inline" { Ok(inline_cache()) } else { Ok(parse_cache(option, text)?) }
            },
        )
        .collect()
}

fn inline_cache() -> CacheEntry {
    CacheEntry { kind: "inline".to_owned(), ..CacheEntry::default() }
}

/// Fires on the first request to stop; the second ends the process, and with it a builder of our own.
fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for signals")?;
    let fired = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        fired.cancel();
        next().await;
        std::process::exit(1);
    });
    Ok(token)
}

/// Runs the build and shows it.
async fn solve(
    client: &Client,
    mut order: Order,
    display: &DisplayArgs,
    cancel: CancellationToken,
) -> anyhow::Result<(Solved, Summary, Order)> {
    let mut progress = Progress::stderr(mode(display));
    let (events, mut inbox) = mpsc::unbounded_channel();
    let request = std::mem::take(&mut order.solve);
    let (result, ()) =
        tokio::join!(client.solve(request, events, cancel), progress.follow(&mut inbox));
    let summary = progress.finish(result.as_ref().err());
    Ok((result?, summary, order))
}

fn mode(display: &DisplayArgs) -> Mode {
    match display.progress {
        _ if display.quiet => Mode::Quiet,
        ProgressMode::Auto => Mode::Auto,
        ProgressMode::Tty => Mode::Tty,
        ProgressMode::Plain => Mode::Plain,
        ProgressMode::Rawjson => Mode::RawJson,
        ProgressMode::Quiet => Mode::Quiet,
    }
}

/// Whether nothing is said beside what was asked for.
fn silent(display: &DisplayArgs) -> bool {
    display.quiet || matches!(display.progress, ProgressMode::Rawjson | ProgressMode::Quiet)
}

/// Says what became of it. Standard output has at most the one thing that was asked for.
fn tell(
    display: &DisplayArgs,
    outputs: &Outputs,
    solved: &Solved,
    summary: &Summary,
    loaded: Option<String>,
) {
    if display.quiet {
        if let Some(id) = report::image_id(&solved.response) {
            println!("{id}");
        }
        return;
    }
    if silent(display) {
        return;
    }
    let mut text = report::cached(summary).unwrap_or_default();
    text.push_str(&report::words(outputs, &solved.response));
    if let Some(loaded) = loaded {
        text.push_str(&loaded);
        text.push('\n');
    }
    // A closed standard error has nobody to tell.
    std::io::stderr().write_all(text.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn caches_have_short_forms() {
        let texts = ["inline", "registry.example/cache", "type=local,src=dir"].map(str::to_owned);
        let kinds: Vec<String> =
            caches("--cache-from", &texts).unwrap().into_iter().map(|entry| entry.kind).collect();
        assert_eq!(kinds, ["inline", "registry", "local"]);
        assert!(caches("--cache-to", &["mode=max".to_owned()]).is_err());
    }

    #[test]
    fn quiet_wins() {
        let display = DisplayArgs { progress: ProgressMode::Plain, quiet: true, debug: false };
        assert_eq!(mode(&display), Mode::Quiet);
    }
}
