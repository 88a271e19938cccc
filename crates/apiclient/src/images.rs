//! Images in a project's registry, and tokens that only pull.

use std::fmt;

use chrono::{DateTime, Utc};
use cofferdam_wire::depot::build::v1 as wire;
use cofferdam_wire::depot::cli::v1 as run;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::page::{Page, PageRequest};
use crate::time;

/// An image under one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The name within the project.
    pub tag: String,
    /// Its manifest's digest.
    pub digest: String,
    /// When it was pushed.
    pub pushed_at: Option<DateTime<Utc>>,
    /// Its size, layers included.
    pub size_bytes: u64,
}

/// A token that pulls a project's images, for a short time.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct PullToken {
    /// The password; any user name goes with it.
    pub token: String,
    /// The registry's host and port; empty when the server does not say.
    pub registry_host: String,
}

impl fmt::Debug for PullToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PullToken")
            .field("registry_host", &self.registry_host)
            .finish_non_exhaustive()
    }
}

impl ApiClient {
    /// The images of a project, newest first.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn images(&self, project: &str, page: PageRequest) -> Result<Page<Image>, ApiError> {
        let request = wire::ListImagesRequest {
            project_id: project.to_owned(),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call = self.image_service().list_images_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let images = answer.images.into_iter().map(|image| Image {
            pushed_at: time::read(&image.pushed_at),
            tag: image.tag,
            digest: image.digest,
            size_bytes: image.size_bytes,
        });
        Ok(Page::new(images.collect(), answer.next_page_token))
    }

    /// Deletes names of images, and the images that have no other.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn delete_images(&self, project: &str, tags: &[String]) -> Result<(), ApiError> {
        let request = wire::DeleteImageRequest {
            project_id: project.to_owned(),
            image_tags: tags.to_vec(),
            ..Default::default()
        };
        let call = self.image_service().delete_image_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }

    /// A token that pulls the images of a project, or those of a build.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn pull_token(
        &self,
        project: Option<&str>,
        build: Option<&str>,
    ) -> Result<PullToken, ApiError> {
        let request = run::GetPullTokenRequest {
            project_id: project.map(str::to_owned),
            build_id: build.map(str::to_owned),
            ..Default::default()
        };
        let call = self.run_service().get_pull_token_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        if answer.token.is_empty() {
            return Err(ApiError::Incomplete { what: "token" });
        }
        Ok(PullToken { token: answer.token, registry_host: answer.registry_host })
    }
}
