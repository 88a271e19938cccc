//! `cofferdam sbom`: what buildpacks wrote down about the parts of an app's image.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use cofferdam_cnb::{LIFECYCLE_METADATA, LifecycleMetadata, parse_json};

use super::inspect::Wanted;
use crate::artifact::Artifact;
use crate::below::Below;
use crate::remote;
use crate::terminal::note;

/// What to do with SBOMs.
#[derive(Debug, Args)]
pub(crate) struct SbomArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the SBOMs of an app's image to files
    Download {
        #[command(flatten)]
        wanted: Wanted,

        /// Directory to write to
        #[arg(short, long, value_name = "DIR", default_value = ".")]
        output_dir: PathBuf,
    },
}

/// Carries the command out.
pub(crate) fn run(args: SbomArgs) -> anyhow::Result<ExitCode> {
    let Action::Download { wanted, output_dir } = args.action;
    super::builder::install_cryptography();
    remote::run(async {
        let image = wanted.open().await?;
        let files = download(&image, &output_dir).await.context(wanted.image.clone())?;
        let noun = if files == 1 { "file" } else { "files" };
        note(&format!("{files} {noun} written to {}.", output_dir.display()));
        Ok(ExitCode::SUCCESS)
    })
}

async fn download(image: &Artifact, directory: &Path) -> anyhow::Result<usize> {
    let text = image
        .label(LIFECYCLE_METADATA)
        .context("the image was not built by buildpacks: it has no label of a lifecycle")?;
    let metadata: LifecycleMetadata = parse_json(LIFECYCLE_METADATA, text)?;
    let sbom = metadata.sbom.context("the image has no SBOMs")?;
    let layer = image.layer(&sbom.sha).await?;
    let below = Below::create(directory)?;
    let wanted = |path: &Path| {
        // The lifecycle writes nothing else into that layer.
        path.strip_prefix("/").unwrap_or(path).starts_with("layers/sbom")
    };
    Ok(below.unpack(decompressed(layer)?, wanted)?)
}

/// A layer as a tar, whatever it is compressed with.
fn decompressed(layer: Vec<u8>) -> anyhow::Result<Box<dyn Read>> {
    let start = layer.get(..4).unwrap_or_default().to_owned();
    let layer = Cursor::new(layer);
    Ok(match start.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(layer)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(layer).context("read the layer")?),
        _ => Box::new(layer),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use cofferdam_image::Platform;

    use super::*;
    use crate::artifact::tests::layout;

    fn layer(path: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for path in [path, "layers/other"] {
            let mut header = tar::Header::new_ustar();
            header.set_size(2);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, &b"{}"[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    async fn downloaded(labels: &[(&str, &str)], layer: &[u8], to: &Path) -> anyhow::Result<usize> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        std::fs::write(&file, layout(labels, layer)).unwrap();
        let image = Artifact::open(file.to_str().unwrap(), &Platform::host()).await.unwrap();
        download(&image, to).await
    }

    #[tokio::test]
    async fn the_layer_of_sboms_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let path = "layers/sbom/launch/bp/l/sbom.cdx.json";
        let plain = layer(path);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for (number, bytes) in [plain, gzip.finish().unwrap(), zstd].into_iter().enumerate() {
            let sha = cofferdam_image::Descriptor::of("", &bytes).digest;
            let label = format!(r#"{{"sbom":{{"sha":"{sha}"}}}}"#);
            let to = dir.path().join(number.to_string());
            let files = downloaded(&[(LIFECYCLE_METADATA, &label)], &bytes, &to).await;
            assert_eq!(files.unwrap(), 1);
            assert_eq!(std::fs::read_to_string(to.join(path)).unwrap(), "{}");
            assert!(!to.join("layers/other").exists());
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        for (label, said) in [
            (None, "not built by buildpacks"),
            (Some("{}"), "no SBOMs"),
            (Some("{"), LIFECYCLE_METADATA),
            (Some(r#"{"sbom":{"sha":"sha256:x"}}"#), "no layer"),
        ] {
            let labels: Vec<(&str, &str)> =
                label.iter().map(|label| (LIFECYCLE_METADATA, *label)).collect();
            let error = downloaded(&labels, b"", dir.path()).await.unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}
