//! `cofferdam trust`: whose jobs may build in a project without a stored token, and which builder images are trusted here.

mod builders;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use cofferdam_apiclient::{Provider, TrustPolicy};

use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{Listing, note, print_json};
use crate::trusted;

/// What to do with a project's trust policies, and with trust in builder images.
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
    /// List whom the project trusts, and builder images
    List,
    /// Trust somebody, or a builder image
    #[command(subcommand)]
    Add(Whom),
    /// Never trust a builder image, whatever else is said
    Deny {
        /// Which images.
        #[arg(help = "REGISTRY/REPOSITORY[:TAG][@DIGEST]")]
        image: String,
    },
    /// Forget what was said about somebody or about a builder image
    Remove {
        /// The policy's id, or the image as it is listed
        #[arg(value_name = "ID|IMAGE")]
        id: String,
    },
}

#[derive(Debug, Clone, Subcommand)]
enum Whom {
    /// A builder image, here and for this user only
    Builder {
        /// Which images.
        #[arg(help = "REGISTRY/REPOSITORY[:TAG][@DIGEST]")]
        image: String,
    },
    #[command(flatten)]
    Jobs(Jobs),
}

#[derive(Debug, Clone, Subcommand)]
enum Jobs {
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

impl Jobs {
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
    match &args.action {
        Action::Add(Whom::Builder { image }) => {
            builders::add(image)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Deny { image } => {
            builders::deny(image)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Remove { id } if builders::remove(id)? => return Ok(ExitCode::SUCCESS),
        // Without a server there is nothing but builders.
        Action::List if !args.server.is_configured()? || args.project.find()?.is_none() => {
            builders::list(args.answer.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Remove { id } if !args.server.is_configured()? => {
            bail!("nothing was said about a builder image {id:?}, and no server is named")
        }
        Action::List | Action::Add(_) | Action::Remove { .. } => {}
    }
    remote::run(async {
        let client = args.server.connect()?;
        let project = args.project.required()?;
        match args.action {
            Action::List => {
                let policies = client.trust_policies(&project).await?;
                let mut listing = Listing::new(args.answer.json, &["ID", "PROVIDER", "WHOM"]);
                listing.add(&policies, row)?;
                let own = builders::lines(&trusted::of_this_user()?, false);
                listing.add(&own, builders::Line::row)?;
                listing.finish("This project trusts nobody without a token.")?;
            }
            Action::Add(Whom::Jobs(jobs)) => {
                let policy = client.add_trust_policy(&project, jobs.provider()?).await?;
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
            Action::Add(Whom::Builder { .. }) | Action::Deny { .. } => {}
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
        let provider = |text: &str| Jobs::Github { repository: text.to_owned() }.provider();
        let expected = Provider::GitHub { owner: "o".into(), repository: "r".into() };
        assert_eq!(provider("o/r").unwrap(), expected);
        for text in ["", "o", "/r", "o/", "o/r/x", "https://github.com/o/r"] {
            assert!(provider(text).is_err(), "{text}");
        }
    }

    #[test]
    fn builders_are_one_more_kind() {
        use clap::Parser;

        #[derive(Parser)]
        struct Whole {
            #[command(flatten)]
            args: TrustArgs,
        }
        let parse = |text: &str| {
            let words = std::iter::once("trust").chain(text.split_whitespace());
            Whole::try_parse_from(words).map(|whole| whole.args.action)
        };
        let added = parse("add builder r.example/b@sha256:x").unwrap();
        assert!(matches!(added, Action::Add(Whom::Builder { .. })));
        assert!(matches!(parse("add github o/r").unwrap(), Action::Add(Whom::Jobs(_))));
        assert!(matches!(parse("deny r.example/b").unwrap(), Action::Deny { .. }));
        assert!(matches!(parse("remove r.example/b").unwrap(), Action::Remove { .. }));
        for text in ["add", "add builder", "add r.example/b", "deny", "remove"] {
            assert!(parse(text).is_err(), "{text}");
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
