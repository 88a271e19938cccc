//! `DiskUsage` and `Prune`: what the store holds, and taking what nobody needs.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_store::{PruneOptions, UsageRecord};
use cofferdam_wire::moby::buildkit::v1 as wire;

use super::filter::Filter;
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::wire_time::{optional, timestamp};

/// The records that match the request's filters.
pub(super) async fn disk_usage(
    context: &Arc<Context>,
    request: wire::DiskUsageRequest,
) -> Result<wire::DiskUsageResponse, Failure> {
    let filter = Filter::parse(&request.filter)?;
    let store = Arc::clone(&context.store);
    let records = blocking(move || store.usage()).await?;
    let record = records.iter().filter(|record| filter.matches(record)).map(to_wire).collect();
    Ok(wire::DiskUsageResponse { record, ..wire::DiskUsageResponse::default() })
}

/// Takes what the request allows to be taken; returns what went.
pub(super) async fn prune(
    context: &Arc<Context>,
    request: wire::PruneRequest,
) -> Result<Vec<wire::UsageRecord>, Failure> {
    let filter = Filter::parse(&request.filter)?;
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    let options = PruneOptions {
        all: request.all,
        keep_duration: Duration::from_nanos(bytes(request.keepDuration)),
        reserved_space: bytes(request.reservedSpace),
        max_used_space: bytes(request.maxUsedSpace),
        min_free_space: bytes(request.minFreeSpace),
        filter: Some(Arc::new(move |record: &UsageRecord| filter.matches(record))),
    };
    let store = Arc::clone(&context.store);
    let gone = blocking(move || store.prune(&options)).await?.map_err(Failure::store)?;
    Ok(gone.iter().map(to_wire).collect())
}

fn to_wire(record: &UsageRecord) -> wire::UsageRecord {
    wire::UsageRecord {
        ID: record.id.clone(),
        Mutable: record.mutable,
        InUse: record.in_use,
        Size: i64::try_from(record.size).unwrap_or(i64::MAX),
        CreatedAt: buffa::MessageField::some(timestamp(record.created_at)),
        LastUsedAt: optional(record.last_used_at),
        UsageCount: i64::from(record.usage_count),
        Description: record.description.clone(),
        RecordType: record.record_type.as_str().to_owned(),
        Shared: record.shared,
        Parents: record.parents.clone(),
        ..wire::UsageRecord::default()
    }
}
