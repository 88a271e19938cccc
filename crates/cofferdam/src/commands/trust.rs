//! `cofferdam trust`: whose jobs may build in a project without a stored token.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use cofferdam_apiclient::{Provider, TrustPolicy};

use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{Listing, note, print_json};

/// What to do with a project's trust policies.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrustArgs {
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
    /// List whom the project trusts
    List,
    /// Trust somebody
    #[command(subcommand)]
    Add(Whom),
    /// Trust somebody no longer
    Remove {
        /// The policy's id
        id: String,
    },
}

#[derive(Debug, Clone, Subcommand)]
enum Whom {
    /// Workflows of a GitHub repository
    Github {
        /// OWNER/REPOSITORY
        repository: String,
    },
    /// Jobs of a CircleCI project
    Circleci {
        /// UUID of the organization
        organization: String,

        /// UUID of the project
        project_uuid: String,
    },
    /// Jobs of a Buildkite pipeline
    Buildkite {
        /// Slug of the organization
        organization: String,

        /// Slug of the pipeline
        pipeline: String,
    },
}

impl Whom {
    fn provider(self) -> anyhow::Result<Provider> {
        Ok(match self {
            Self::Github { repository } => {
                let (owner, name) = repository
                    .split_once('/')
                    .filter(|(owner, name)| {
                        !owner.is_empty() && !name.is_empty() && !name.contains('/')
                    })
                    .with_context(|| {
                        format!("invalid repository {repository:?}: expected OWNER/REPOSITORY")
                    })?;
                Provider::GitHub { owner: owner.to_owned(), repository: name.to_owned() }
            }
            Self::Circleci { organization, project_uuid } => {
                Provider::CircleCi { organization, project: project_uuid }
            }
            Self::Buildkite { organization, pipeline } => {
                Provider::Buildkite { organization, pipeline }
            }
        })
    }
}

/// Carries the command out.
pub(crate) fn run(args: TrustArgs) -> anyhow::Result<ExitCode> {
    remote::run(async {
        let client = args.server.connect()?;
        let project = args.project.required()?;
        match args.action {
            Action::List => {
                let policies = client.trust_policies(&project).await?;
                let mut listing = Listing::new(args.answer.json, &["ID", "PROVIDER", "WHOM"]);
                listing.add(&policies, row)?;
                listing.finish("This project trusts nobody without a token.")?;
            }
            Action::Add(whom) => {
                let policy = client.add_trust_policy(&project, whom.provider()?).await?;
                if args.answer.json {
                    print_json(&policy)?;
                } else {
                    note(&format!("Policy {}: {}.", policy.id, row(&policy)[1..].join(" ")));
                }
            }
            Action::Remove { id } => {
                client.remove_trust_policy(&project, &id).await?;
                note(&format!("Policy {id} is removed."));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn row(policy: &TrustPolicy) -> Vec<String> {
    let (kind, whom) = match &policy.provider {
        Some(Provider::GitHub { owner, repository }) => ("github", format!("{owner}/{repository}")),
        Some(Provider::CircleCi { organization, project }) => {
            ("circleci", format!("{organization}/{project}"))
        }
        Some(Provider::Buildkite { organization, pipeline }) => {
            ("buildkite", format!("{organization}/{pipeline}"))
        }
        None => ("unknown", "-".to_owned()),
    };
    vec![policy.id.clone(), kind.to_owned(), whom]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn repositories_have_owners() {
        let provider = |text: &str| Whom::Github { repository: text.to_owned() }.provider();
        let expected = Provider::GitHub { owner: "o".into(), repository: "r".into() };
        assert_eq!(provider("o/r").unwrap(), expected);
        for text in ["", "o", "/r", "o/", "o/r/x", "https://github.com/o/r"] {
            assert!(provider(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rows_name_everybody() {
        let policy = |provider| row(&TrustPolicy { id: "p".into(), provider });
        let circle = Provider::CircleCi { organization: "o".into(), project: "p".into() };
        assert_eq!(policy(Some(circle)), ["p", "circleci", "o/p"]);
        assert_eq!(policy(None), ["p", "unknown", "-"]);
    }
}
