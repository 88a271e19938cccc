//! Everything that happens in a build as one stream, from its beginning until it is closed and all its solves have ended.
//!
//! Nothing is buffered for a watcher: each reads the histories that solves keep anyway, at its own pace.

use std::sync::Arc;

use buffa::MessageField;
use cofferdam_digest::Digest;
use cofferdam_egress::{Connection, Protocol};
use cofferdam_wire::cofferdam::builder::v1 as wire;
use cofferdam_wire::cofferdam::builder::v1::__buffa::oneof::watch_build_response::Event;
use cofferdam_wire::cofferdam::builder::v1::watch_build_response as message;
use connectrpc::ConnectError;
use futures::stream::{BoxStream, StreamExt, once, select, unfold};

use super::build::ServedBuild;
use super::solve::ServedSolve;
use crate::builder::Builder;
use crate::control::status;
use crate::wire_time::timestamp;

/// Connections put into one message.
const BATCH: usize = 500;

type Events = BoxStream<'static, Result<wire::WatchBuildResponse, ConnectError>>;

fn event(event: impl Into<Event>) -> wire::WatchBuildResponse {
    wire::WatchBuildResponse { event: Some(event.into()), ..Default::default() }
}

/// The events of `build`.
pub(super) fn events(builder: &Arc<Builder>, build: &Arc<ServedBuild>) -> Events {
    let builder = Arc::clone(builder);
    let solves = unfold((build.state(), 0), |(mut state, next)| async move {
        let solve = {
            let known = state.wait_for(|state| state.closed || next < state.solves.len()).await;
            known.ok()?.solves.get(next).cloned()
        };
        Some((solve?, (state, next + 1)))
    });
    solves.map(move |solve| of_solve(&builder, &solve)).flatten_unordered(None).boxed()
}

/// Beginning, events, connections and end of one solve.
fn of_solve(builder: &Arc<Builder>, solve: &Arc<ServedSolve>) -> Events {
    let reference = solve.reference().to_owned();
    let started = message::SolveStarted { r#ref: reference, ..Default::default() };
    let started = once(async { Ok(event(started)) });
    let both = select(statuses(builder, solve), connections(solve));
    let solve = Arc::clone(solve);
    let ended = once(async move { Ok(event(ended(&solve).await)) });
    started.chain(both).chain(ended).boxed()
}

fn statuses(builder: &Arc<Builder>, solve: &Arc<ServedSolve>) -> Events {
    let (builder, job) = (Arc::clone(builder), Arc::clone(solve.job()));
    let events = job.events();
    let saved = move |vertex: &Digest| builder.saved(&job, vertex);
    status::responses(events, saved).map(|response| response.map(event)).boxed()
}

fn connections(solve: &Arc<ServedSolve>) -> Events {
    let reference = solve.reference().to_owned();
    unfold((solve.state(), 0, reference), |(mut state, next, reference)| async move {
        let batch: Vec<wire::Connection> = {
            let known = state
                .wait_for(|state| state.over().is_some() || next < state.connections.len())
                .await
                .ok()?;
            known.connections.iter().skip(next).take(BATCH).map(of_connection).collect()
        };
        if batch.is_empty() {
            return None;
        }
        let next = next + batch.len();
        let connections = message::Connections {
            r#ref: reference.clone(),
            connections: batch,
            ..Default::default()
        };
        Some((Ok(event(connections)), (state, next, reference)))
    })
    .boxed()
}

async fn ended(solve: &Arc<ServedSolve>) -> message::SolveEnded {
    let mut state = solve.state();
    let ended = state.wait_for(|state| state.over().is_some()).await;
    let ended = ended.ok().and_then(|state| state.over().cloned());
    message::SolveEnded {
        r#ref: solve.reference().to_owned(),
        canceled: ended.as_ref().is_some_and(|ended| ended.canceled),
        error: ended.and_then(|ended| ended.error),
        ..Default::default()
    }
}

fn of_connection((step, connection): &(String, Connection)) -> wire::Connection {
    let protocol = match connection.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Dns => "dns",
    };
    wire::Connection {
        vertex: step.clone(),
        protocol: protocol.to_owned(),
        host: connection.name.clone().unwrap_or_default(),
        address: connection.address.to_string(),
        port: connection.port.into(),
        allowed: !connection.denied(),
        sent_bytes: connection.bytes_up,
        received_bytes: connection.bytes_down,
        opened_at: MessageField::some(timestamp(connection.started.into())),
        ..Default::default()
    }
}
