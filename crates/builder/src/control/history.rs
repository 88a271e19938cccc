//! `ListenBuildHistory`, `UpdateBuildHistory`, and `Status` of builds that are over.

use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_wire::moby::buildkit::v1 as wire;
use connectrpc::{ConnectError, Response};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use crate::builder::Builder;
use crate::failure::Failure;
use crate::history::{Query, replay};
use crate::serving::Scope;

/// Response header by which clients correct for their clock.
const TIMESTAMP: &str = "buildkit-current-timestamp";

/// A response with the builder's time.
pub(super) fn timed<T>(response: Response<T>) -> Response<T> {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    response.with_header(TIMESTAMP, now)
}

/// What a listener asked for.
pub(super) async fn listen(
    builder: &Arc<Builder>,
    scope: &Scope,
    request: &wire::BuildHistoryRequest,
) -> Result<impl Stream<Item = Result<wire::BuildHistoryEvent, ConnectError>> + Send + use<>, Failure>
{
    let query = Query::parse(request)?;
    builder.context.history.listen(scope.owner(), &query, request.EarlyExit).await
}

/// Deletes, completes or pins a record.
pub(super) async fn update(
    builder: &Arc<Builder>,
    scope: &Scope,
    request: &wire::UpdateBuildHistoryRequest,
) -> Result<(), Failure> {
    let history = &builder.context.history;
    let (owner, reference) = (scope.owner(), request.Ref.as_str());
    if request.Delete {
        history.finalize(owner, reference).await;
        history.remove(owner, reference).await
    } else if request.Finalize {
        history.finalize(owner, reference).await;
        Ok(())
    } else {
        history.pin(owner, reference, request.Pinned).await
    }
}

/// The status stream of a build that is over, if there is a record of it and no later build of the same name runs.
pub(super) async fn past_status(
    builder: &Arc<Builder>,
    scope: &Scope,
    reference: &str,
) -> Result<Option<BoxStream<'static, Result<wire::StatusResponse, ConnectError>>>, Failure> {
    let history = &builder.context.history;
    if history.is_running(scope.owner(), reference) {
        return Ok(None);
    }
    let Some(record) = history.find(scope.owner(), reference).await? else {
        return Ok(None);
    };
    let digest = record.logs.as_option().and_then(|logs| Digest::parse(&logs.digest).ok());
    match digest.and_then(|digest| builder.context.store.blob(&digest)) {
        Some(blob) => Ok(Some(replay(&blob)?.boxed())),
        None => Ok(Some(futures::stream::empty().boxed())),
    }
}
