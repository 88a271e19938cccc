//! How long a page of a project's builds takes as the project grows: first, middle and last page of 100, at 10^3 to 10^6 builds.
//!
//! Usage: `cargo run --release -p cofferdam-records --example list_builds [most builds]`

use std::time::{Duration, Instant};

use cofferdam_records::{CachePolicy, NewProject, PageRequest, Records};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

type Failure = Box<dyn std::error::Error>;

/// Pages that are timed at each place.
const ROUNDS: usize = 200;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let most = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse::<i64>())?;
    let dir = tempfile::tempdir()?;
    let records = Records::open(dir.path()).await?;
    let organization = records.create_organization("bench").await?.id;
    let mut rows =
        SqliteConnectOptions::new().filename(dir.path().join("records.db")).connect().await?;
    println!(
        "{:>9}  {:>16}  {:>16}  {:>16}",
        "builds", "first p50/p99", "middle p50/p99", "last p50/p99"
    );
    let mut count = 1000;
    while count <= most {
        let new = NewProject {
            organization: organization.clone(),
            name: format!("{count} builds"),
            region: "here".to_owned(),
            cache: CachePolicy::default(),
            hardware: 0,
        };
        let project = records.create_project(new).await?.id;
        fill(&mut rows, &project, &organization, count).await?;
        let middle = token_after(&records, &project, count / 2).await?;
        let last = token_after(&records, &project, count - 100).await?;
        let mut line = format!("{count:>9}");
        for token in [None, middle.as_deref(), last.as_deref()] {
            let (median, worst) = time(&records, &project, token).await?;
            line += &format!("  {:>16}", format!("{median:.2?}/{worst:.2?}"));
        }
        println!("{line}");
        count *= 10;
    }
    rows.close().await?;
    Ok(())
}

/// Builds of one second each, one a second.
async fn fill(
    rows: &mut SqliteConnection,
    project: &str,
    organization: &str,
    count: i64,
) -> Result<(), Failure> {
    sqlx::query(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $3)
         INSERT INTO builds (id, project, organization, status, command, options, created_at, started_at, finished_at, total_steps)
         SELECT $1 || printf('%010d', i), $1, $2, 3, 1, '[]', 1700000000000000 + i * 1000000,
                1700000000000000 + i * 1000000, 1700000001000000 + i * 1000000, 12 FROM n",
    )
    .bind(project)
    .bind(organization)
    .bind(count)
    .execute(rows)
    .await?;
    Ok(())
}

/// The token of the page after some builds, found the way a client finds it.
async fn token_after(
    records: &Records,
    project: &str,
    skip: i64,
) -> Result<Option<String>, Failure> {
    let mut token: Option<String> = None;
    let mut seen = 0;
    while seen < skip {
        let request = PageRequest { size: Some(100), token: token.as_deref() };
        let page = records.builds(project, request).await?;
        seen += i64::try_from(page.items.len())?;
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    Ok(token)
}

async fn time(
    records: &Records,
    project: &str,
    token: Option<&str>,
) -> Result<(Duration, Duration), Failure> {
    let mut taken = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let page = records.builds(project, PageRequest { size: Some(100), token }).await?;
        taken.push(begun.elapsed());
        assert_eq!(page.items.len(), 100, "a page is not full");
    }
    taken.sort();
    Ok((taken[ROUNDS / 2], taken[ROUNDS * 99 / 100]))
}
