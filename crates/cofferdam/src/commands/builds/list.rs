//! `cofferdam builds list`.

use cofferdam_apiclient::{ApiClient, Build, PageRequest};

use crate::paging::PagingArgs;
use crate::terminal::{Listing, moment, seconds};

const COLUMNS: [&str; 6] = ["ID", "STATUS", "CREATED", "DURATION", "CACHED", "SAVED"];

/// Prints the builds of a project, newest first.
pub(super) async fn list(
    client: &ApiClient,
    project: &str,
    paging: &PagingArgs,
    json: bool,
) -> anyhow::Result<()> {
    let mut listing = Listing::new(json, &COLUMNS);
    let fetch = async |page: PageRequest| client.builds(project, page).await;
    paging.each(fetch, |part| listing.add(part, row)).await?;
    listing.finish("No builds.")
}

fn row(build: &Build) -> Vec<String> {
    vec![
        build.id.clone(),
        build.status.name().to_owned(),
        moment(build.created_at),
        seconds(build.duration_seconds),
        cached(build).unwrap_or_else(|| "-".to_owned()),
        seconds(build.saved_seconds),
    ]
}

/// How many of the steps the cache answered.
pub(super) fn cached(build: &Build) -> Option<String> {
    Some(format!("{}/{}", build.cached_steps?, build.total_steps?))
}

#[cfg(test)]
mod tests {
    use cofferdam_apiclient::BuildStatus;

    use super::*;

    #[test]
    fn a_build_in_a_row() {
        let build = Build {
            id: "b".into(),
            status: BuildStatus::Success,
            created_at: chrono::DateTime::from_timestamp(1_700_000_000, 0),
            started_at: None,
            finished_at: None,
            duration_seconds: Some(83),
            saved_seconds: None,
            cached_steps: Some(3),
            total_steps: Some(7),
        };
        assert_eq!(row(&build), ["b", "success", "2023-11-14T22:13:20Z", "1m23s", "3/7", "-"]);
    }
}
