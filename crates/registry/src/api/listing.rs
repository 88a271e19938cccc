//! `<name>/tags/list` and `<name>/referrers/<digest>`: what is there, page by page.

use axum::response::Response;
use cofferdam_records::ManifestRow;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json as value};

use super::{Ask, READ, json};
use crate::digest::ContentDigest;
use crate::error::Failure;
use crate::limits::{REFERRERS_BYTES, REFERRERS_PAGE, TAGS_PAGE};
use crate::manifest::OCI_INDEX;
use crate::name::{Repository, is_tag};

/// Tells which filters were applied to a list of referrers.
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `GET <name>/tags/list?n=&last=`.
pub(super) async fn tags(ask: Ask, repository: Repository) -> Result<Response, Failure> {
    if !matches!(ask.method, Method::GET | Method::HEAD) {
        return Err(Failure::WrongMethod(READ));
    }
    let count = match ask.query.get("n") {
        None => TAGS_PAGE,
        Some(text) => text
            .parse::<usize>()
            .map_err(|_| Failure::Query("n: a number was expected"))?
            .min(TAGS_PAGE),
    };
    let last = ask.query.get("last").filter(|last| !last.is_empty());
    if last.is_some_and(|last| !is_tag(last)) {
        return Err(Failure::Query("last: a tag was expected"));
    }
    let records = &ask.registry.records;
    let found = records.tags(repository.project(), repository.as_str(), count + 1, last).await;
    let mut tags = found.map_err(|error| Failure::records("list tags", &error))?;
    if tags.is_empty() && !ask.registry.repository_exists(&repository).await? {
        return Err(Failure::NameUnknown);
    }
    let more = tags.len() > count && count > 0;
    tags.truncate(count);
    let body = value!({ "name": repository.as_str(), "tags": tags });
    let mut response = json(StatusCode::OK, "application/json", body.to_string());
    if let Some(last) = tags.last().filter(|_| more) {
        let next = format!("</v2/{repository}/tags/list?n={count}&last={last}>; rel=\"next\"");
        link(&mut response, &next)?;
    }
    Ok(response)
}

/// `GET <name>/referrers/<digest>?artifactType=`. A digest nothing refers to, even one that does
/// not exist, has an empty list.
pub(super) async fn referrers(
    ask: Ask,
    repository: Repository,
    subject: ContentDigest,
) -> Result<Response, Failure> {
    if !matches!(ask.method, Method::GET | Method::HEAD) {
        return Err(Failure::WrongMethod(READ));
    }
    let kind = ask.query.get("artifactType").filter(|kind| !kind.is_empty());
    let last = match ask.query.get("last") {
        Some(last) => Some(ContentDigest::parse(last).ok_or(Failure::DigestMalformed)?.to_string()),
        None => None,
    };
    let (project, name) = (repository.project(), repository.as_str());
    let found = ask.registry.records.referrers(project, name, &subject.to_string(), kind).await;
    let mut rows = found.map_err(|error| Failure::records("list referrers", &error))?;
    rows.sort_by(|left, right| left.digest.cmp(&right.digest));
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|row| last.as_ref().is_none_or(|last| row.digest > *last))
        .collect();
    let count = rows.len();
    let mut bytes = 0;
    let mut page: Vec<Value> = Vec::new();
    for row in rows.iter().take(REFERRERS_PAGE) {
        let descriptor = descriptor(row);
        bytes += descriptor.to_string().len();
        if bytes > REFERRERS_BYTES && !page.is_empty() {
            break;
        }
        page.push(descriptor);
    }
    let shown = page.len();
    let body = value!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page });
    let mut response = json(StatusCode::OK, OCI_INDEX, body.to_string());
    if kind.is_some() {
        response.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
    }
    if let Some(row) = rows.get(shown.saturating_sub(1)).filter(|_| shown < count) {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("last", &row.digest);
        if let Some(kind) = kind {
            query.append_pair("artifactType", kind);
        }
        let next =
            format!("</v2/{repository}/referrers/{subject}?{}>; rel=\"next\"", query.finish());
        link(&mut response, &next)?;
    }
    Ok(response)
}

fn descriptor(row: &ManifestRow) -> Value {
    let mut descriptor =
        value!({ "mediaType": row.media_type, "size": row.size, "digest": row.digest });
    if let Some(kind) = &row.artifact_type {
        descriptor["artifactType"] = value!(kind);
    }
    let annotations: Option<Value> = serde_json::from_str(&row.annotations).ok();
    let annotations =
        annotations.filter(|value| value.as_object().is_some_and(|map| !map.is_empty()));
    if let Some(annotations) = annotations {
        descriptor["annotations"] = annotations;
    }
    descriptor
}

fn link(response: &mut Response, next: &str) -> Result<(), Failure> {
    let next = HeaderValue::from_str(next).map_err(|_| Failure::Internal)?;
    response.headers_mut().insert(header::LINK, next);
    Ok(())
}
