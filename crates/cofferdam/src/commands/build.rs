//! `cofferdam build`: an ordinary client of a builder, which starts one for itself when it is told of none;
//! or a client of a server, which gives it one.

mod arguments;
mod attestations;
mod attributes;
mod buildpacks;
mod context;
mod hosted;
mod level;
mod load;
mod operation;
mod outputs;
mod own;
mod place;
mod reach;
mod report;
mod session;

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use cofferdam_client::options::parse_cache;
use cofferdam_client::progress::{Progress, ProgressMode as Mode, Summary};
use cofferdam_client::text;
use cofferdam_client::{CacheDirectories, CacheEntry, Client, Solve, SolveError, Solved};
use cofferdam_session::Services;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use arguments::{BuildArgs, OutputArgs};
use arguments::{DisplayArgs, ProgressMode};
use buildpacks::{Choice, Surroundings};
use context::Sources;
use hosted::HostedBuild;
use load::Loader;
pub(crate) use operation::{Operation, PlaceArgs, run_operation};
use outputs::Outputs;
use own::OwnBuilder;
use place::Place;

use crate::exit::Coded;
use crate::terminal::note;
use crate::trusted;

/// The frontend that reads Dockerfiles.
const FRONTEND: &str = "dockerfile.v0";

/// Carries the command out.
pub(crate) fn run(mut args: BuildArgs) -> anyhow::Result<ExitCode> {
    if let Some(path) = args.buildpacks.path.take() {
        args.context = path;
    }
    start(args.display.debug, build(args))
}

fn start(
    debug: bool,
    work: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    super::builder::install_cryptography();
    let level = if debug { crate::logging::Level::Debug } else { crate::logging::Level::Warn };
    crate::logging::start(level, crate::logging::Format::Text);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
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
    let choice = buildpacks::choose(&args, Surroundings::of_this_user)?;
    let order = match &choice {
        Choice::Dockerfile { .. } => prepare(&args).await?,
        Choice::Buildpacks { builder, project } => prepare_app(&args, builder, project).await?,
    };
    let built = perform(order, &args).await;
    if choice == (Choice::Dockerfile { missing: true }) {
        return built.map_err(|error| {
            anyhow!(
                "{error:#}; without a Dockerfile a builder image is needed: {}",
                buildpacks::HOW
            )
        });
    }
    built
}

/// Runs the build where it is to run.
async fn perform(order: Order, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let has_codes = order.solve.frontend == buildpacks::FRONTEND;
    let performed = perform_anywhere(order, args).await;
    performed.map_err(|error| match buildpacks::lifecycle_code(&error).filter(|_| has_codes) {
        Some(code) => Coded::new(code, &error).into(),
        None => error,
    })
}

async fn perform_anywhere(order: Order, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let cancel = cancelled_by_signals()?;
    match Place::of(args, crate::remote::variable) {
        Place::Address(address) => {
            let client = Client::connect(&address).await?;
            carry_out(&client, order, args, cancel).await?;
        }
        Place::Server => on_server(order, args, cancel).await?,
        Place::Here => {
            let arguments: Vec<String> = std::env::args().skip(1).collect();
            let named = reach::hosts(&order.solve, &arguments);
            let mut own = OwnBuilder::start(&args.builder, &args.display, &named)?;
            let built = async {
                let client = tokio::select! {
                    client = own.connect() => client?,
                    () = cancel.cancelled() => return Err(SolveError::Canceled.into()),
                };
                level::check(&client, args.builder.isolation).await?;
                solve(&client, order, &args.display, cancel).await
            };
            let built = built.await;
            own.stop().await;
            let (solved, summary, order) = built?;
            conclude(order, args, &solved, &summary).await?;
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
            name_app(&mut order.solve, hosted.save_names()?, &args.server.save_tag);
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
    level::check(client, args.builder.isolation).await?;
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
    order.outputs.finish(&solved.response)?;
    let loaded = match order.loader {
        Some(loader) => Some(loader.finish().await?),
        None => None,
    };
    report::write(&args.outputs, &solved.response)?;
    buildpacks::finish(&args.buildpacks, &solved.response)?;
    tell(&args.display, &order.outputs, solved, summary, loaded);
    drop(order.sources);
    Ok(())
}

/// The name under which an app is kept from build to build, when only the server names it: caches and earlier layers hang on it.
fn name_app(solve: &mut Solve, names: &[String], tags: &[String]) {
    if solve.frontend != buildpacks::FRONTEND {
        return;
    }
    let is_kept = |name: &&String| {
        tags.iter().any(|tag| name.strip_suffix(tag.as_str()).is_some_and(|r| r.ends_with(':')))
    };
    if let Some(name) = names.iter().find(is_kept) {
        solve.frontend_attrs.entry("image".to_owned()).or_insert_with(|| name.clone());
    }
}

/// Reads everything the arguments name, so that mistakes are found before anything is started.
async fn prepare(args: &BuildArgs) -> anyhow::Result<Order> {
    let attributes = attributes::attributes(args, |name| std::env::var(name).ok())?;
    let outputs = Outputs::plan(args, std::io::stdout().is_terminal())?;
    let services = session::offers(&args.inputs)?;
    let sources = Sources::find(args).await?;
    let draft = Draft {
        frontend: FRONTEND,
        attrs: attributes.frontend,
        entitlements: attributes.entitlements,
        services,
        sources,
        outputs,
    };
    draft.order(args).await
}

/// The same for an app and buildpacks.
async fn prepare_app(
    args: &BuildArgs,
    builder: &str,
    project: &buildpacks::Project,
) -> anyhow::Result<Order> {
    let outputs = Outputs::plan(args, std::io::stdout().is_terminal())?;
    let pushes = outputs.pushes() || args.server.saves();
    let trust = trusted::of_this_user()?;
    let environment = |name: &str| std::env::var(name).ok();
    let plan = buildpacks::plan(args, builder, project, &trust, pushes, environment)?;
    if args.display.progress != ProgressMode::Rawjson {
        plan.notes.iter().for_each(|text| note(text));
    }
    let services = session::offers(&args.inputs)?;
    let mut sources = Sources::find_app(args).await?;
    sources.directories.extend(plan.directories);
    sources.apart = plan.held;
    let draft = Draft {
        frontend: buildpacks::FRONTEND,
        attrs: plan.attrs,
        entitlements: plan.entitlements,
        services,
        sources,
        outputs,
    };
    draft.order(args).await
}

/// Everything but what all builds have in common.
struct Draft {
    frontend: &'static str,
    attrs: BTreeMap<String, String>,
    entitlements: Vec<String>,
    services: Services,
    sources: Sources,
    outputs: Outputs,
}

impl Draft {
    async fn order(self, args: &BuildArgs) -> anyhow::Result<Order> {
        let Self { frontend, attrs, entitlements, services, mut sources, outputs } = self;
        let mut imports = caches("--cache-from", &args.caches.cache_from)?;
        let mut exports = caches("--cache-to", &args.caches.cache_to)?;
        let inline = attrs.get("build-arg:BUILDKIT_INLINE_CACHE");
        if inline.is_some_and(|value| matches!(value.as_str(), "1" | "true")) {
            exports.push(inline_cache());
        }
        let services = sources.offer(services)?;
        let (caches, services) = CacheDirectories::prepare(&mut imports, &mut exports, services)?;
        let (services, loader) = session::targets(&outputs, services).await?;
        let mut frontend_attrs = attrs;
        frontend_attrs.append(&mut sources.attrs);
        let solve = Solve {
            frontend: frontend.to_owned(),
            frontend_attrs,
            exporters: outputs.exporters(),
            cache_imports: imports,
            cache_exports: exports,
            entitlements,
            services,
            shared_key: sources.shared_key.clone(),
            ..Solve::default()
        };
        Ok(Order { solve, sources, outputs, loader, caches })
    }
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
    if let Some(flow) = buildpacks::flow_line(&solved.response) {
        text.push_str(&text::single_line(&flow));
        text.push('\n');
    }
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
    fn apps_on_servers_have_names() {
        let names = ["r.example/p:b1".to_owned(), "r.example/p:main".to_owned()];
        let image = |frontend: &str, own: Option<&str>, tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            let own = own.map(|own| ("image".to_owned(), own.to_owned()));
            let mut solve = Solve {
                frontend: frontend.to_owned(),
                frontend_attrs: own.into_iter().collect(),
                ..Solve::default()
            };
            name_app(&mut solve, &names, &tags);
            solve.frontend_attrs.remove("image")
        };
        let given = Some("r.example/p:main".to_owned());
        assert_eq!(image(buildpacks::FRONTEND, None, &["main"]), given);
        assert_eq!(image(buildpacks::FRONTEND, Some("own"), &["main"]), Some("own".to_owned()));
        assert_eq!(image(buildpacks::FRONTEND, None, &["ain"]), None, "builds have other names");
        assert_eq!(image(buildpacks::FRONTEND, None, &[]), None);
        assert_eq!(image(FRONTEND, None, &["main"]), None);
    }

    #[test]
    fn quiet_wins() {
        let display = DisplayArgs { progress: ProgressMode::Plain, quiet: true, debug: false };
        assert_eq!(mode(&display), Mode::Quiet);
    }
}
