//! `cofferdam images`: what is in a project's registry.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use cofferdam_apiclient::{Image, PageRequest};

use crate::paging::PagingArgs;
use crate::remote::{self, AnswerArgs, ProjectArgs, RemoteArgs};
use crate::terminal::{Listing, bytes, moment, note};

/// What to do with a project's images.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImagesArgs {
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
    /// List the project's images, newest first
    List(PagingArgs),
    /// Delete images by their names
    Delete {
        /// Names, as `images list` shows them
        #[arg(required = true, value_name = "TAG")]
        tags: Vec<String>,
    },
}

/// Carries the command out.
pub(crate) fn run(args: ImagesArgs) -> anyhow::Result<ExitCode> {
    remote::run(async {
        let client = args.server.connect()?;
        let project = args.project.required()?;
        match args.action {
            Action::List(paging) => {
                let mut listing =
                    Listing::new(args.answer.json, &["TAG", "PUSHED", "SIZE", "DIGEST"]);
                let fetch = async |page: PageRequest| client.images(&project, page).await;
                paging.each(fetch, |part| listing.add(part, row)).await?;
                listing.finish("No images.")?;
            }
            Action::Delete { tags } => {
                client.delete_images(&project, &tags).await?;
                note(&format!("Deleted {}.", tags.join(", ")));
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn row(image: &Image) -> Vec<String> {
    vec![image.tag.clone(), moment(image.pushed_at), bytes(image.size_bytes), image.digest.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_in_a_row() {
        let image = Image {
            tag: "b1".into(),
            digest: "sha256:aa".into(),
            pushed_at: None,
            size_bytes: 2_150_000,
        };
        assert_eq!(row(&image), ["b1", "-", "2.1 MB", "sha256:aa"]);
    }
}
