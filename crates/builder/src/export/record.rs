//! What exporters put into the build's record: the image's documents and what names them.

use cofferdam_image::Descriptor;

use super::Export;
use super::image::Image;
use crate::failure::Failure;

impl Export {
    /// Keeps the documents of `image` with the build's record, under `root`.
    pub(super) async fn record(&self, image: &Image, root: &Descriptor) -> Result<(), Failure> {
        if !self.recording.is_on() {
            return Ok(());
        }
        for document in [image.blobs(), image.manifests()].concat() {
            let media_type = &document.descriptor.media_type;
            self.recording.keep(media_type, document.bytes.clone()).await?;
        }
        self.recording.result(self.index, root);
        Ok(())
    }
}
