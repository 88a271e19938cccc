//! `cofferdam projects`: what a platform's customers have.

mod walls;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use cofferdam_apiclient::{
    ApiClient, CachePolicy, ErrorCode, Hardware, NewProject, PageRequest, Project, ProjectChange,
    ProjectLimits, ProjectSettings,
};
use serde::Serialize;

use crate::paging::PagingArgs;
use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{Listing, moment, note, print, print_json};
use cofferdam_client::text;
use walls::WallArgs;

/// What a cache keeps of which nothing was said, as other clients have it.
const CACHE: CachePolicy = CachePolicy { keep_gb: 50, keep_days: 14 };

/// What to do with projects.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProjectsArgs {
    #[command(flatten)]
    server: RemoteArgs,

    #[command(flatten)]
    project: ProjectArgs,

    #[command(flatten)]
    answer: AnswerArgs,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// List projects, newest first
    List(PagingArgs),
    /// Make a project
    Create {
        /// Its name
        name: String,

        /// Organization, when the token belongs to several
        #[arg(long, value_name = "ID")]
        organization: Option<String>,

        #[command(flatten)]
        settings: Settings,

        #[command(flatten)]
        walls: WallArgs,
    },
    /// Show a project
    Show {
        /// The project [default: that of --project]
        id: Option<String>,
    },
    /// Change a project
    Update {
        /// The project [default: that of --project]
        id: Option<String>,

        /// New name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,

        #[command(flatten)]
        settings: Settings,

        #[command(flatten)]
        walls: WallArgs,
    },
    /// Delete a project with its cache, builds, tokens and images
    Delete {
        /// The project
        id: String,

        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Drop a project's cache and cancel its running builds
    Reset {
        /// The project [default: that of --project]
        id: Option<String>,
    },
}

#[derive(Debug, Clone, Default, Args)]
struct Settings {
    /// Where it builds, such as eu-central-1
    #[arg(long, value_name = "REGION")]
    region: Option<String>,

    /// Processors and memory of its builder, such as 16x32 (GiB)
    #[arg(long, value_name = "CPUSxMEMORY")]
    hardware: Option<Hardware>,

    /// Most that its cache keeps, in GiB; 0 has no limit
    #[arg(long, value_name = "GB", value_parser = clap::value_parser!(i32).range(0..))]
    keep_gb: Option<i32>,

    /// How long its cache keeps what is not used, in days; 0 has no limit
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i32).range(0..))]
    keep_days: Option<i32>,
}

impl Settings {
    fn says_nothing(&self) -> bool {
        self.region.is_none() && self.hardware.is_none() && !self.speaks_of_cache()
    }

    const fn speaks_of_cache(&self) -> bool {
        self.keep_gb.is_some() || self.keep_days.is_some()
    }

    /// The whole policy: the API replaces both limits at once.
    fn cache(&self, before: CachePolicy) -> CachePolicy {
        CachePolicy {
            keep_gb: self.keep_gb.unwrap_or(before.keep_gb),
            keep_days: self.keep_days.unwrap_or(before.keep_days),
        }
    }
}

/// Carries the command out.
pub(crate) fn run(args: ProjectsArgs) -> anyhow::Result<ExitCode> {
    remote::run(async {
        let client = args.server.connect()?;
        let json = args.answer.json;
        let named = |id: Option<String>| id.map_or_else(|| args.project.required(), Ok);
        match args.action {
            Action::List(paging) => list(&client, &paging, json).await?,
            Action::Create { name, organization, settings, walls } => {
                let change = walls.change(ProjectLimits::default())?;
                let project = create(&client, name, organization, settings).await?;
                if !walls.says_nothing() {
                    let said = client.update_settings(&project.id, change).await;
                    said.with_context(|| {
                        format!("project {} was made without its walls", project.id)
                    })?;
                }
                show(&client, project, json).await?;
            }
            Action::Show { id } => show(&client, client.project(&named(id)?).await?, json).await?,
            Action::Update { id, name, settings, walls } => {
                let project = update(&client, &named(id)?, name, settings, &walls).await?;
                show(&client, project, json).await?;
            }
            Action::Delete { id, yes } => delete(&client, &id, yes).await?,
            Action::Reset { id } => {
                let id = named(id)?;
                client.reset_project(&id).await?;
                note(&format!("Project {id} starts over with an empty cache."));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn list(client: &ApiClient, paging: &PagingArgs, json: bool) -> anyhow::Result<()> {
    let columns = ["ID", "CREATED", "REGION", "HARDWARE", "CACHE", "NAME"];
    let mut listing = Listing::new(json, &columns);
    let fetch = async |page: PageRequest| client.projects(page).await;
    paging.each(fetch, |part| listing.add(part, row)).await?;
    listing.finish("No projects.")
}

fn row(project: &Project) -> Vec<String> {
    vec![
        project.id.clone(),
        moment(project.created_at),
        project.region.clone(),
        project.hardware.to_string(),
        kept(project.cache),
        project.name.clone(),
    ]
}

fn kept(cache: CachePolicy) -> String {
    let limit = |count: i32, unit: &str| (count > 0).then(|| format!("{count} {unit}"));
    let parts: Vec<String> = [limit(cache.keep_gb, "GB"), limit(cache.keep_days, "days")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() { "no limit".to_owned() } else { parts.join(", ") }
}

/// The answer as a whole.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    project: Project,
    /// Nothing when the server knows of none.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<ProjectSettings>,
}

async fn show(client: &ApiClient, project: Project, json: bool) -> anyhow::Result<()> {
    let settings = match client.project_settings(&project.id).await {
        Ok(settings) => Some(settings),
        Err(error) if error.code() == Some(ErrorCode::Unimplemented) => None,
        Err(error) => return Err(error).context("read the project's settings"),
    };
    let report = Report { project, settings };
    if json {
        return print_json(&report);
    }
    print(&describe(&report))?;
    Ok(())
}

fn describe(report: &Report) -> String {
    let project = &report.project;
    let mut lines = vec![
        ("project", project.id.clone()),
        ("name", project.name.clone()),
        ("organization", project.organization.clone()),
        ("region", project.region.clone()),
        ("hardware", project.hardware.to_string()),
        ("cache keeps", kept(project.cache)),
        ("created", moment(project.created_at)),
    ];
    lines.extend(report.settings.iter().flat_map(walls::describe));
    lines.iter().map(|(key, value)| format!("{key:<13} {}\n", text::single_line(value))).collect()
}

async fn create(
    client: &ApiClient,
    name: String,
    organization: Option<String>,
    settings: Settings,
) -> anyhow::Result<Project> {
    let cache = Some(settings.cache(CACHE));
    let region = settings.region.unwrap_or_default();
    let new = NewProject { name, organization, region, hardware: settings.hardware, cache };
    Ok(client.create_project(new).await?)
}

async fn update(
    client: &ApiClient,
    id: &str,
    name: Option<String>,
    settings: Settings,
    walls: &WallArgs,
) -> anyhow::Result<Project> {
    let names_project = name.is_some() || !settings.says_nothing();
    ensure!(
        names_project || !walls.says_nothing(),
        "nothing to change: use --name, --region, --hardware, --keep-gb, --keep-days, --isolation, --network-policy or --limit"
    );
    if !walls.says_nothing() {
        let before = if walls.needs_limits_before() {
            client.project_settings(id).await?.limits
        } else {
            ProjectLimits::default()
        };
        client.update_settings(id, walls.change(before)?).await?;
        if !names_project {
            return Ok(client.project(id).await?);
        }
    }
    let cache = if settings.speaks_of_cache() {
        Some(settings.cache(client.project(id).await?.cache))
    } else {
        None
    };
    let change =
        ProjectChange { name, region: settings.region, hardware: settings.hardware, cache };
    Ok(client.update_project(id, change).await?)
}

async fn delete(client: &ApiClient, id: &str, yes: bool) -> anyhow::Result<()> {
    if !yes {
        ensure!(std::io::stdin().is_terminal(), "deleting needs --yes where nobody can be asked");
        let project = client.project(id).await?;
        let name = text::single_line(&project.name);
        eprint!(
            "Delete project {name} ({}) with its cache, builds, tokens and images? [y/N] ",
            text::single_line(&project.id)
        );
        std::io::stderr().flush().ok();
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was deleted");
        }
    }
    client.delete_project(id).await?;
    note(&format!("Project {id} is deleted."));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report() -> Report {
        let project = Project {
            id: "n9548n2qqx".into(),
            organization: "0rg".into(),
            name: "evil\x1b[2J\nname".into(),
            region: "eu-central-1".into(),
            hardware: "16x32".parse().unwrap(),
            cache: CACHE,
            created_at: chrono::DateTime::from_timestamp(1_700_000_000, 0),
        };
        Report { project, settings: None }
    }

    #[test]
    fn a_project_in_words() {
        let text = describe(&report());
        assert_eq!(text.lines().count(), 7);
        assert!(text.contains("name          evil[2J name\n"), "{text}");
        assert!(text.contains("cache keeps   50 GB, 14 days\n"), "{text}");
        assert!(text.contains("created       2023-11-14T22:13:20Z\n"), "{text}");
    }

    #[test]
    fn one_limit_leaves_the_other() {
        let settings = Settings { keep_days: Some(7), ..Settings::default() };
        assert_eq!(settings.cache(CACHE), CachePolicy { keep_gb: 50, keep_days: 7 });
        assert!(settings.speaks_of_cache() && !settings.says_nothing());
        assert!(Settings::default().says_nothing());
        assert_eq!(kept(CachePolicy::default()), "no limit");
        assert_eq!(kept(CachePolicy { keep_gb: 0, keep_days: 7 }), "7 days");
    }
}
