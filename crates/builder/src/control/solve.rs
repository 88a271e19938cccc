//! `Control.Solve`: one build from request to response.
//!
//! The call lasts as long as the build. When it is dropped, because the client went away, or
//! when the client's session ends, the build is cancelled and everything it held is released.

use std::collections::HashMap;
use std::convert::identity;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_sandbox::Isolation;
use cofferdam_solver::Job;
use cofferdam_wire::moby::buildkit::v1::{SolveRequest, SolveResponse};
use cofferdam_wire::pb;
use tokio_util::sync::CancellationToken;

use super::exporting::{self, exporters};
use crate::admission::Share;
use crate::attest::{self, Attester};
use crate::blocking::blocking;
use crate::builder::Builder;
use crate::cache::of_build;
use crate::context::BuildInfo;
use crate::export::{Attributes, vertex_digest};
use crate::failure::{Failure, chain};
use crate::gateway::bridge::{Answer, AnswerRefs, Bridge};
use crate::gateway::entitlements::Granted;
use crate::gateway::platforms;
use crate::gateway::policy::Rules;
use crate::history::{Recorder, Recording, TraceContext};
use crate::provenance::{Asked, FrontendRequest};
use crate::runtime::OpRuntime;
use crate::serving::{Scope, Solving};

/// Newest wire behaviour this builder has, in BuildKit's numbering.
const COMPATIBILITY: i64 = 30;
/// Longest name of a build; clients use 25 characters.
const MAX_REF: usize = 256;

/// Ends a build whichever way its call ends.
struct Ending {
    builder: Arc<Builder>,
    id: String,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.builder.finish(&self.id);
    }
}

/// Runs a build of `scope`.
pub(super) async fn solve(
    builder: &Arc<Builder>,
    scope: &Scope,
    request: SolveRequest,
    trace: TraceContext,
) -> Result<SolveResponse, Failure> {
    check(&request)?;
    builder.check_open()?;
    let id = scope.name(&request.Ref);
    let share = scope.share();
    let places = share.places(&builder.context.config.limits);
    // Declared first: what the build holds is free when the collector hears of its end.
    let _running = builder.context.garbage.running();
    let opened = builder.solver.job_within(&id, places).map_err(Failure::of);
    let job = opened.map_err(|failure| scope.explain(failure))?;
    let solving = scope.begin(&request.Ref, &job)?;
    let recorder = Recorder::begin(builder, scope.owner(), &request, &job, trace);
    let build = Build { recording: recorder.recording(), solving: &solving, share: &share };
    let result = solve_job(builder, scope, request, job, build).await;
    let result = result.map_err(|failure| scope.explain_end(failure, builder.is_stopping()));
    recorder.end(&result).await;
    secure(builder).await;
    solving.end(&result);
    result
}

/// Has what builds made, and the records of those that have ended, outlive a builder that is killed at this moment. A build is
/// told to have ended only after that; trouble with it fails no build, because its result is with its client.
async fn secure(builder: &Builder) {
    let context = &builder.context;
    // A virtual machine goes down with its builder, and what its kernel has not written yet with it.
    if context.config.isolation.level != Isolation::Vm {
        let store = Arc::clone(&context.store);
        match blocking(move || store.secure().map_err(Failure::store)).await.and_then(identity) {
            Ok(()) => return,
            Err(failure) => tracing::debug!(%failure, "a build's end waits for the disk"),
        }
    }
    context.history.flush().await;
    if let Err(error) = context.store.settled().await {
        let reason = chain(&error);
        tracing::warn!(reason, "what a build made is lost should the builder be killed now");
    }
}

/// What a build has besides its request.
struct Build<'a> {
    solving: &'a Solving,
    share: &'a Share,
    recording: Recording,
}

async fn solve_job(
    builder: &Arc<Builder>,
    scope: &Scope,
    request: SolveRequest,
    job: Arc<Job<OpRuntime>>,
    build: Build<'_>,
) -> Result<SolveResponse, Failure> {
    let Build { solving, share, recording } = build;
    let id = job.id().to_owned();
    let wanted = exporters(&request)?;
    let granted = Granted::new(&builder.context.config, &request.Entitlements)?;
    let session = scope.name(&request.Session);
    let sessions = if session.is_empty() { vec![] } else { vec![session.clone()] };
    let root = FrontendRequest::new(
        &request.Frontend,
        &pairs(&request.FrontendAttrs).collect(),
        request.FrontendInputs.clone().into_iter().collect(),
    );
    let produced = Arc::clone(&builder.context.produced);
    let bridge = Bridge::new(
        Arc::clone(&builder.context),
        Arc::clone(&job),
        request.Session.clone(),
        sessions.clone(),
        builder.worker.platforms.clone(),
        Asked::by_client(root, scope.owner().to_owned(), produced)?,
        granted,
    );
    let verifier = &request.SourcePolicySession;
    let verifier = (!verifier.is_empty()).then(|| scope.name(verifier));
    let rules = Rules::new(request.SourcePolicy.as_option().cloned(), verifier).await?;
    let bridge = bridge.under(rules);
    let info = BuildInfo {
        sessions: sessions.clone(),
        scope: scope.clone(),
        solve: solving.solve().cloned(),
        bridge: Some(Arc::downgrade(&bridge)),
        explores: request.Frontend.is_empty() && !request.Definition.is_set(),
        recording,
        ..BuildInfo::default()
    };
    builder.context.add_build(&id, info);
    if let Err(failure) = builder.add(job, Arc::clone(&bridge)) {
        builder.context.remove_build(&id);
        return Err(failure);
    }
    let _ending = Ending { builder: Arc::clone(builder), id };

    let client_gone = client_gone(builder, &session);
    let run = async {
        let _place = builder.admission.enter(share, &bridge.job).await?;
        let work = run(builder, &bridge, &request, wanted);
        share.in_time(builder.context.config.limits.build_time(), work).await
    };
    tokio::select! {
        result = run => result,
        () = client_gone => {
            bridge.job.cancel();
            Err(Failure::canceled())
        }
        () = cancelled(bridge.job.cancellation()) => Err(Failure::canceled()),
    }
}

async fn cancelled(token: CancellationToken) {
    token.cancelled().await;
}

/// Resolves when a session that was there has ended; never for a build without one.
async fn client_gone(builder: &Arc<Builder>, session: &str) {
    if !session.is_empty()
        && let Ok(session) = builder.context.sessions.get(session).await
    {
        session.closed().cancelled().await;
        return;
    }
    std::future::pending().await
}

/// The behaviour that a request asks for, in BuildKit's numbering.
pub(super) const fn compatibility(request: &SolveRequest) -> i64 {
    if request.CompatibilityVersion == 0 { COMPATIBILITY } else { request.CompatibilityVersion }
}

fn check(request: &SolveRequest) -> Result<(), Failure> {
    if request.Ref.is_empty() {
        return Err(Failure::invalid("solve request without ref"));
    }
    if request.Ref.len() > MAX_REF {
        return Err(Failure::invalid("the ref of the solve request is too long"));
    }
    if request.CompatibilityVersion > COMPATIBILITY {
        return Err(Failure::invalid(format!(
            "unsupported compatibility-version {}: upgrade buildkit (max supported: {COMPATIBILITY})",
            request.CompatibilityVersion
        )));
    }
    if request.Definition.is_set() && !request.Frontend.is_empty() {
        return Err(Failure::invalid("cannot solve with both Definition and Frontend specified"));
    }
    Ok(())
}

fn pairs<'a>(
    attrs: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> impl Iterator<Item = (String, String)> {
    attrs.into_iter().map(|(key, value)| (key.clone(), value.clone()))
}

async fn run(
    builder: &Arc<Builder>,
    bridge: &Arc<Bridge>,
    request: &SolveRequest,
    wanted: Vec<Attributes>,
) -> Result<SolveResponse, Failure> {
    let requested = attest::requested(request)?;
    bridge.import(of_build::imports(request)).await;
    let answer = answer(bridge, request).await?;
    let mut output = bridge.output(&answer).await?;
    let cache_exports = of_build::exports(request)?;
    if cache_exports.iter().any(|request| request.kind == "inline") {
        of_build::add_inline(builder, bridge, &mut output).await?;
    }
    let attester = Attester::new(bridge, &answer, compatibility(request));
    attester.attest(&requested, request, &mut output).await?;
    let asked = request.FrontendAttrs.get("platform").map(String::as_str);
    let warnings = platforms::check(asked, &output)?;
    let verified = match wanted.is_empty() {
        true => Digest::of(format!("{}:verify", bridge.job.id())),
        false => vertex_digest(&request.Session, 0),
    };
    let mut response =
        exporting::export(builder, bridge, request, wanted, (&answer, &output)).await?;
    for warning in warnings {
        bridge.job.vertex(verified, "Verifying build result").warning(warning);
    }
    response.extend(
        answer
            .metadata
            .iter()
            .filter(|(key, _)| key.starts_with("frontend."))
            .map(|(key, value)| (key.clone(), String::from_utf8_lossy(value).into_owned())),
    );
    for (index, wanted) in cache_exports.iter().enumerate() {
        if wanted.kind != "inline" {
            response.extend(of_build::export(builder, bridge, wanted, &output, index).await?);
        }
    }
    // The build is done, whatever becomes of its record.
    if let Err(failure) = attester.record(&requested, &output).await {
        let reason = cofferdam_graph::without_credentials(failure.message());
        tracing::warn!(%reason, "a build's provenance is missing from its record");
    }
    if request.EnableSessionExporter {
        exporting::finalize(builder, bridge, &response).await?;
    }
    Ok(SolveResponse {
        ExporterResponse: response.into_iter().collect(),
        ..SolveResponse::default()
    })
}

async fn answer(bridge: &Arc<Bridge>, request: &SolveRequest) -> Result<Answer, Failure> {
    if let Some(definition) = request.Definition.as_option().filter(|def| !def.def.is_empty()) {
        let reference = bridge.reference(definition.clone()).await?;
        return Ok(Answer { refs: AnswerRefs::Single(Some(reference)), ..Answer::default() });
    }
    if request.Definition.is_set() && request.Frontend.is_empty() {
        // A definition without ops is scratch.
        return Ok(Answer::default());
    }
    if request.Frontend.is_empty() {
        return bridge.verdict().await;
    }
    let attrs = pairs(&request.FrontendAttrs).collect();
    let inputs: HashMap<String, pb::Definition> = (*bridge.inputs).clone();
    bridge.frontend(&request.Frontend, attrs, inputs).await
}
