//! `DiskUsage` and `Prune`: what the store holds, and taking what nobody needs.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_store::{PruneOptions, UsageRecord};
use cofferdam_wire::moby::buildkit::v1 as wire;

use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::filters::Filters;
use crate::wire_time::{optional, timestamp};

/// The records that match the request's filters.
pub(super) async fn disk_usage(
    context: &Arc<Context>,
    request: wire::DiskUsageRequest,
) -> Result<wire::DiskUsageResponse, Failure> {
    let filter = Filters::parse(&request.filter)?;
    let store = Arc::clone(&context.store);
    let records = blocking(move || store.usage()).await?;
    let record = records
        .iter()
        .filter(|record| unused_for(record, request.ageLimit))
        .filter(|record| filter.matches(|path| field(record, path)))
        .map(to_wire)
        .collect();
    Ok(wire::DiskUsageResponse { record, ..wire::DiskUsageResponse::default() })
}

/// Takes what the request allows to be taken; returns what went.
pub(super) async fn prune(
    context: &Arc<Context>,
    request: wire::PruneRequest,
) -> Result<Vec<wire::UsageRecord>, Failure> {
    let filter = Filters::parse(&request.filter)?;
    let bytes = |value: i64| u64::try_from(value).unwrap_or(0);
    let options = PruneOptions {
        all: request.all,
        keep_duration: Duration::from_nanos(bytes(request.keepDuration)),
        reserved_space: bytes(request.reservedSpace),
        max_used_space: bytes(request.maxUsedSpace),
        min_free_space: bytes(request.minFreeSpace),
        whole: false,
        filter: (!filter.is_empty()).then(|| matching(filter)),
    };
    let gone = context.garbage.prune(options).await?;
    Ok(gone.iter().map(to_wire).collect())
}

/// Whether a record was not used for so many nanoseconds; 0 or less asks nothing, and what was never used counts as old.
fn unused_for(record: &UsageRecord, nanoseconds: i64) -> bool {
    let cut = chrono::Utc::now() - chrono::TimeDelta::nanoseconds(nanoseconds);
    nanoseconds <= 0 || record.last_used_at.is_none_or(|used| used <= cut)
}

/// The test of a record that filters stand for.
pub(crate) fn matching(filters: Filters) -> Arc<dyn Fn(&UsageRecord) -> bool + Send + Sync> {
    Arc::new(move |record| filters.matches(|path| field(record, path)))
}

/// A record's fields, by the names that filters use.
fn field(record: &UsageRecord, path: &[String]) -> Option<String> {
    let flag = |on: bool| on.then(|| "true".to_owned());
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    match path.first()?.as_str() {
        "id" => text(&record.id),
        "description" => text(&record.description),
        "type" => text(record.record_type.as_str()),
        "inuse" => flag(record.in_use),
        "mutable" => flag(record.mutable),
        "immutable" => flag(!record.mutable),
        "shared" => flag(record.shared),
        "private" => flag(!record.shared),
        "parents" => text(&record.parents.join(";")),
        _ => None,
    }
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
