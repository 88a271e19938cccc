//! `depot.build.v1.RegistryService`: the images of a project.

use std::sync::Arc;

use cofferdam_access::{Action, Resource};
use cofferdam_records::PageRequest;
use cofferdam_registry::{DeleteImageError, ImageName};
use cofferdam_wire::depot::build::v1 as wire;
use cofferdam_wire::depot::build::v1::RegistryService;
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult};

use super::convert::at;
use super::{Api, failed};

/// Most tags that one call deletes.
const MOST_TAGS: usize = 1000;

/// The service.
pub(super) struct RegistryApi(pub(super) Arc<Api>);

impl RegistryService for RegistryApi {
    async fn list_images(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::ListImagesRequest>,
    ) -> ServiceResult<wire::ListImagesResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::ListImages, Resource::Project(id)).await?;
        let page = PageRequest { size: request.page_size, token: request.page_token.as_deref() };
        let page = self.0.records.images(id, page).await.map_err(failed)?;
        let images = page.items.into_iter().map(|image| wire::Image {
            tag: ImageName::new(&image.repository, &image.tag)
                .map_or(image.tag, |name| name.to_string()),
            digest: image.digest,
            pushed_at: at(image.pushed_at),
            size_bytes: image.size_bytes,
            ..Default::default()
        });
        Response::ok(wire::ListImagesResponse {
            images: images.collect(),
            next_page_token: Some(page.next.unwrap_or_default()),
            ..Default::default()
        })
    }

    async fn delete_image(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, wire::DeleteImageRequest>,
    ) -> ServiceResult<wire::DeleteImageResponse> {
        let request = request.to_owned_message();
        let id = &request.project_id;
        self.0.authorize(&context, Action::DeleteImage, Resource::Project(id)).await?;
        if request.image_tags.is_empty() || request.image_tags.len() > MOST_TAGS {
            return Err(ConnectError::invalid_argument(format!(
                "image_tags: expected 1 to {MOST_TAGS} tags"
            )));
        }
        let deleted = self.0.images.delete_images(id, &request.image_tags).await;
        deleted.map_err(|error| match error {
            DeleteImageError::Name(_) => ConnectError::invalid_argument(error.to_string()),
            DeleteImageError::NotFound(_) => ConnectError::not_found(error.to_string()),
            DeleteImageError::Unavailable => ConnectError::unavailable(error.to_string()),
        })?;
        self.0.collect_later(id);
        Response::ok(wire::DeleteImageResponse::default())
    }
}

impl Api {
    /// Frees what nothing refers to any more, while nobody waits for it.
    fn collect_later(&self, project: &str) {
        let (images, project) = (self.images.clone(), project.to_owned());
        tokio::spawn(async move {
            if let Err(error) = images.collect(&project).await {
                tracing::warn!(project, %error, "unused blobs could not be removed");
            }
        });
    }
}
