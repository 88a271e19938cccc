//! Attestations of an image that is looked up: the manifest that speaks about it, who signed that, and what it says.
//!
//! What is found is handed on as it is: whoever asked judges it. Every part is verified by its digest, and there are bounds for
//! how many parts there are and how large they are together. Must not send more than the client's credentials reach.

use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_image::registry::Repository;
use cofferdam_image::{Descriptor, Document, Index, MAX_DOCUMENT, Manifest, media};
use cofferdam_wire::moby::buildkit::v1::frontend as wire;

use crate::failure::Failure;
use crate::source::image::{ResolvedImage, SessionBlobs};

/// Most parts of a chain.
const MAX_PARTS: usize = 64;
/// Most bytes of all parts: with what is around them, one message of the protocol holds them.
const MAX_BYTES: u64 = 12 << 20;
/// Says what an entry of an index is.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Says which image an entry of an index is about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// What an entry is that speaks about an image.
const ATTESTATION: &str = "attestation-manifest";
/// Says what kind of statement a layer holds.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// Signatures as artifacts; the kind that stands first is preferred.
const SIGNATURES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
];

/// Where an image is.
pub(super) enum Home {
    /// In a registry, seen with the client's credentials.
    Registry(Repository),
    /// In a content store of the client, which lists nothing that refers to a manifest.
    Layout(SessionBlobs),
}

impl Home {
    /// What a reference named: an index or a manifest.
    pub(super) async fn root(&self, digest: &Digest) -> Result<Bytes, Failure> {
        match self {
            Self::Registry(repository) => {
                let fetched = repository.fetch(&digest.to_string()).await.map_err(Failure::of)?;
                Ok(fetched.bytes)
            }
            Self::Layout(blobs) => blobs.small(digest, MAX_DOCUMENT).await,
        }
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        match self {
            Self::Registry(repository) => {
                let fetched = repository.document(descriptor).await.map_err(Failure::of)?;
                Ok(fetched.bytes)
            }
            Self::Layout(blobs) => blobs.small(&descriptor.digest, MAX_DOCUMENT).await,
        }
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        match self {
            Self::Registry(repository) => {
                repository.small_blob(descriptor).await.map_err(Failure::of)
            }
            Self::Layout(blobs) => blobs.small(&descriptor.digest, MAX_DOCUMENT).await,
        }
    }

    async fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>, Failure> {
        match self {
            Self::Registry(repository) => repository.referrers(digest).await.map_err(Failure::of),
            Self::Layout(_) => Ok(Vec::new()),
        }
    }
}

/// A chain in the making.
struct Parts {
    chain: wire::AttestationChain,
    left: u64,
}

impl Parts {
    fn of(image: &ResolvedImage) -> Self {
        let chain = wire::AttestationChain {
            Root: image.root.to_string(),
            ImageManifest: image.digest.to_string(),
            ..Default::default()
        };
        Self { chain, left: MAX_BYTES }
    }

    fn has(&self, digest: &Digest) -> bool {
        self.chain.Blobs.contains_key(&digest.to_string())
    }

    /// Refuses what would be too much, before it is fetched.
    fn check(&self, descriptor: &Descriptor) -> Result<(), Failure> {
        if self.chain.Blobs.len() < MAX_PARTS && descriptor.size <= self.left {
            return Ok(());
        }
        Err(Failure::unknown(format!(
            "the attestations of {} have more than {MAX_PARTS} parts or {MAX_BYTES} bytes",
            self.chain.Root
        )))
    }

    fn add(&mut self, descriptor: &Descriptor, bytes: &Bytes) -> Result<(), Failure> {
        let size = bytes.len() as u64;
        if size != descriptor.size {
            let digest = descriptor.digest;
            return Err(Failure::unknown(format!("{digest} has another size than it should")));
        }
        self.check(descriptor)?;
        self.left = self.left.saturating_sub(size);
        let part = wire::Blob {
            descriptor: buffa::MessageField::some(wire::Descriptor {
                media_type: descriptor.media_type.clone(),
                digest: descriptor.digest.to_string(),
                size: i64::try_from(size).unwrap_or(i64::MAX),
                annotations: descriptor.annotations.clone().into_iter().collect(),
                ..Default::default()
            }),
            data: bytes.to_vec(),
            ..Default::default()
        };
        self.chain.Blobs.insert(descriptor.digest.to_string(), part);
        Ok(())
    }

    /// Adds a manifest and returns what it says.
    async fn add_manifest(
        &mut self,
        home: &Home,
        descriptor: &Descriptor,
    ) -> Result<Manifest, Failure> {
        self.check(descriptor)?;
        let bytes = home.manifest(descriptor).await?;
        self.add(descriptor, &bytes)?;
        match Document::parse(&bytes, Some(descriptor.media_type.as_str())).map_err(Failure::of)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => {
                let digest = descriptor.digest;
                Err(Failure::unknown(format!("attestation {digest} is an index")))
            }
        }
    }

    async fn add_blob(&mut self, home: &Home, descriptor: &Descriptor) -> Result<(), Failure> {
        if self.has(&descriptor.digest) {
            return Ok(());
        }
        self.check(descriptor)?;
        let bytes = home.blob(descriptor).await?;
        self.add(descriptor, &bytes)
    }
}

/// The chain of `image`, whose root is `root`, with the statements whose predicate types are `wanted`. `None` for an image that
/// is no part of an index: nothing speaks about it.
pub(super) async fn chain(
    home: &Home,
    image: &ResolvedImage,
    root: Bytes,
    wanted: &[String],
) -> Result<Option<wire::AttestationChain>, Failure> {
    let document = Document::parse(&root, None).map_err(Failure::of)?;
    let named = Descriptor::new(document.media_type(), image.root, root.len() as u64);
    let Document::Index(index) = document else { return Ok(None) };
    let mut parts = Parts::of(image);
    parts.add(&named, &root)?;
    let Some(attestation) = attestation(&index, &image.digest) else {
        return Ok(Some(parts.chain));
    };
    let manifest = parts.add_manifest(home, attestation).await?;
    parts.chain.AttestationManifest = attestation.digest.to_string();
    if let Some(signature) = signature(home.referrers(&attestation.digest).await?) {
        let signed = parts.add_manifest(home, &signature).await?;
        parts.chain.SignatureManifests = vec![signature.digest.to_string()];
        for layer in &signed.layers {
            parts.add_blob(home, layer).await?;
        }
    }
    for layer in manifest.layers.iter().filter(|layer| is_wanted(layer, wanted)) {
        parts.add_blob(home, layer).await?;
    }
    Ok(Some(parts.chain))
}

/// The entry of an index that speaks about `image`.
fn attestation<'a>(index: &'a Index, image: &Digest) -> Option<&'a Descriptor> {
    let about = image.to_string();
    index.manifests.iter().find(|entry| {
        let says =
            |key: &str, value: &str| entry.annotations.get(key).is_some_and(|found| found == value);
        media::is_manifest(&entry.media_type)
            && says(REFERENCE_TYPE, ATTESTATION)
            && says(REFERENCE_DIGEST, &about)
    })
}

/// The signature among what refers to a manifest: one, as whoever checks it expects.
fn signature(referrers: Vec<Descriptor>) -> Option<Descriptor> {
    let rank = |entry: &Descriptor| {
        let kind = entry.artifact_type.as_deref()?;
        SIGNATURES.iter().position(|known| *known == kind)
    };
    let manifests = referrers.into_iter().filter(|entry| media::is_manifest(&entry.media_type));
    let ranked = manifests.filter_map(|entry| Some((rank(&entry)?, entry)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
}

fn is_wanted(layer: &Descriptor, wanted: &[String]) -> bool {
    let kind = layer.annotations.get(PREDICATE_TYPE).filter(|kind| !kind.is_empty());
    kind.is_some_and(|kind| wanted.contains(kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(text: &str) -> Descriptor {
        Descriptor::of(media::OCI_MANIFEST, text.as_bytes())
    }

    fn image() -> ResolvedImage {
        let config = Descriptor::of(media::OCI_CONFIG, b"{}");
        ResolvedImage {
            root: Digest::of("root"),
            digest: Digest::of("image"),
            manifest: Manifest::new(media::OCI_MANIFEST, config, Vec::new()),
            config: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn the_entry_about_the_image_is_found() {
        let about = |image: &str, kind: &str| {
            let mut found = entry(&format!("about {image}"));
            let digest = Digest::of(image).to_string();
            found.annotations.insert(REFERENCE_DIGEST.to_owned(), digest);
            found.annotations.insert(REFERENCE_TYPE.to_owned(), kind.to_owned());
            found
        };
        let entries = vec![
            entry("image"),
            about("other", ATTESTATION),
            about("image", "something-else"),
            about("image", ATTESTATION),
        ];
        let index = Index::new(media::OCI_INDEX, entries);
        let found = attestation(&index, &Digest::of("image")).unwrap();
        assert_eq!(found, &about("image", ATTESTATION));
        assert_eq!(attestation(&index, &Digest::of("nothing")), None);
    }

    #[test]
    fn one_signature_counts_and_bundles_are_preferred() {
        let signed = |text: &str, kind: Option<&str>| Descriptor {
            artifact_type: kind.map(str::to_owned),
            ..entry(text)
        };
        let [bundle, cosign] = SIGNATURES;
        let others = [signed("sbom", Some("application/x")), signed("untyped", None)];
        let all = [
            others.to_vec(),
            vec![signed("cosign", Some(cosign)), signed("first", Some(bundle))],
            vec![signed("second", Some(bundle))],
        ];
        let found = signature(all.concat()).unwrap();
        assert_eq!(found.digest, Digest::of("first"));
        assert_eq!(signature(others.to_vec()), None);
        let mut elsewhere = signed("index", Some(bundle));
        media::OCI_INDEX.clone_into(&mut elsewhere.media_type);
        assert_eq!(signature(vec![elsewhere]), None);
    }

    #[test]
    fn a_chain_has_bounds() {
        let mut parts = Parts::of(&image());
        let add = |parts: &mut Parts, text: String| {
            parts.add(&entry(&text), &Bytes::from(text.into_bytes()))
        };
        for number in 0..MAX_PARTS {
            add(&mut parts, number.to_string()).unwrap();
        }
        assert!(add(&mut parts, "one more".to_owned()).is_err());
        let parts = Parts::of(&image());
        let large = Descriptor { size: MAX_BYTES + 1, ..entry("large") };
        assert!(parts.check(&large).is_err());
        let mut parts = Parts::of(&image());
        let lying = Descriptor { size: 1, ..entry("lying") };
        assert!(parts.add(&lying, &Bytes::from_static(b"lying")).is_err());
        assert!(parts.chain.Blobs.is_empty());
    }

    #[test]
    fn statements_are_taken_by_their_type() {
        let mut layer = entry("statement");
        let wanted = ["https://slsa.dev/provenance/v1".to_owned(), String::new()];
        assert!(!is_wanted(&layer, &wanted));
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), String::new());
        assert!(!is_wanted(&layer, &wanted));
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), wanted[0].clone());
        assert!(is_wanted(&layer, &wanted));
        assert!(!is_wanted(&layer, &[]));
    }
}
