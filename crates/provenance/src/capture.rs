//! What one result was made of, collected step by step.

use std::collections::HashSet;

use cofferdam_graph::without_credentials;
use cofferdam_image::Reference;

use crate::request::{NamedUse, Parameters};
use crate::sources::{BlobSource, GitSource, HttpSource, ImageSource, Sources};

/// Everything one result of a build was made of.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    /// What was asked for.
    pub request: Parameters,
    /// What was taken from outside.
    pub sources: Sources,
    /// Some step could reach a network.
    pub network: bool,
    /// There may be more sources than those listed.
    pub incomplete: bool,
}

impl Capture {
    /// Adds what another result was made of.
    pub fn merge(&mut self, other: Self) {
        other.sources.images.into_iter().for_each(|image| self.add_image(image));
        other.sources.blobs.into_iter().for_each(|blob| self.add_blob(blob));
        other.sources.git.into_iter().for_each(|git| self.add_git(git));
        other.sources.http.into_iter().for_each(|http| self.add_http(http));
        other.sources.locals.into_iter().for_each(|local| self.add_local(local));
        for secret in other.request.secrets {
            self.add_secret(&secret.id, secret.optional);
        }
        for agent in other.request.ssh {
            self.add_ssh(&agent.id, agent.optional);
        }
        self.network |= other.network;
        self.incomplete |= other.incomplete;
    }

    /// Adds an image. The same one for another platform counts as another.
    pub fn add_image(&mut self, image: ImageSource) {
        let same = |known: &ImageSource| {
            known.reference == image.reference
                && known.local == image.local
                && match (&known.platform, &image.platform) {
                    (Some(known), Some(new)) => {
                        (&known.os, &known.architecture, &known.variant, &known.os_version)
                            == (&new.os, &new.architecture, &new.variant, &new.os_version)
                    }
                    (known, new) => known == new,
                }
        };
        if !self.sources.images.iter().any(same) {
            self.sources.images.push(image);
        }
    }

    /// Adds a blob.
    pub fn add_blob(&mut self, blob: BlobSource) {
        let same =
            |known: &BlobSource| known.reference == blob.reference && known.local == blob.local;
        if !self.sources.blobs.iter().any(same) {
            self.sources.blobs.push(blob);
        }
    }

    /// Adds a repository. The same one from another bundle counts as another.
    pub fn add_git(&mut self, mut git: GitSource) {
        git.url = without_credentials(&git.url).into_owned();
        let same = |known: &GitSource| known.url == git.url && known.bundle == git.bundle;
        if !self.sources.git.iter().any(same) {
            self.sources.git.push(git);
        }
    }

    /// Adds a download.
    pub fn add_http(&mut self, mut http: HttpSource) {
        http.url = without_credentials(&http.url).into_owned();
        if !self.sources.http.iter().any(|known| known.url == http.url) {
            self.sources.http.push(http);
        }
    }

    /// Adds a directory of the client.
    pub fn add_local(&mut self, name: String) {
        if !self.sources.locals.contains(&name) {
            self.sources.locals.push(name);
        }
    }

    /// Adds the id of a secret.
    pub fn add_secret(&mut self, id: &str, optional: bool) {
        add_use(&mut self.request.secrets, id, optional);
    }

    /// Adds the id of an agent.
    pub fn add_ssh(&mut self, id: &str, optional: bool) {
        let id = if id.is_empty() { "default" } else { id };
        add_use(&mut self.request.ssh, id, optional);
    }

    /// Brings everything into the order it is written in, and leaves out images by digest that are
    /// there by name as well.
    pub fn finish(&mut self) {
        let named: HashSet<String> =
            self.sources.images.iter().filter_map(|image| by_name(&image.reference)).collect();
        self.sources.images.retain(|image| match pinned_name(&image.reference) {
            Some(name) => !named.contains(&name),
            None => true,
        });
        self.sources.images.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.sources.blobs.sort_by(|a, b| a.reference.cmp(&b.reference));
        self.sources.git.sort_by(|a, b| {
            let bundle = |git: &GitSource| git.bundle.as_ref().map(|from| from.reference.clone());
            a.url.cmp(&b.url).then_with(|| bundle(a).cmp(&bundle(b)))
        });
        self.sources.http.sort_by(|a, b| a.url.cmp(&b.url));
        self.sources.locals.sort();
        self.request.secrets.sort_by(|a, b| a.id.cmp(&b.id));
        self.request.ssh.sort_by(|a, b| a.id.cmp(&b.id));
    }
}

fn add_use(uses: &mut Vec<NamedUse>, id: &str, optional: bool) {
    match uses.iter_mut().find(|known| known.id == id) {
        Some(known) => known.optional &= optional,
        None => uses.push(NamedUse { id: id.to_owned(), optional }),
    }
}

/// Name and tag of a reference without digest.
fn by_name(reference: &str) -> Option<String> {
    let parsed = Reference::parse_name(reference).ok()?;
    parsed.digest().is_none().then(|| named(&parsed))
}

/// Name and tag of a reference with digest.
fn pinned_name(reference: &str) -> Option<String> {
    let parsed = Reference::parse_name(reference).ok()?;
    parsed.digest().map(|_| named(&parsed))
}

fn named(reference: &Reference) -> String {
    format!("{}:{}", reference.name(), reference.tag().unwrap_or("latest"))
}

#[cfg(test)]
mod tests {
    use cofferdam_digest::Digest;
    use cofferdam_image::Platform;

    use super::*;

    fn image(reference: &str, platform: Option<Platform>) -> ImageSource {
        let digest = Some(Digest::of(reference));
        ImageSource { reference: reference.to_owned(), platform, digest, local: false }
    }

    #[test]
    fn each_thing_is_there_once() {
        let mut capture = Capture::default();
        let arm = Platform::new("linux", "arm64", "");
        capture.add_image(image("docker.io/library/a:1", None));
        capture.add_image(image("docker.io/library/a:1", Some(arm.clone())));
        capture.add_image(image("docker.io/library/a:1", Some(arm)));
        let pinned = format!("docker.io/library/a:1@{}", Digest::of("a"));
        capture.add_image(image(&pinned, None));
        let other = format!("docker.io/library/b@{}", Digest::of("b"));
        capture.add_image(image(&other, None));
        capture.add_secret("b", true);
        capture.add_secret("a", true);
        capture.add_secret("b", false);
        capture.add_ssh("", true);
        let mut more = Capture::default();
        more.add_secret("b", true);
        more.add_http(HttpSource { url: "http://u:p@h/x".into(), digest: Digest::of("x") });
        capture.merge(more);
        capture.finish();
        let images: Vec<&str> =
            capture.sources.images.iter().map(|image| image.reference.as_str()).collect();
        assert_eq!(images, ["docker.io/library/a:1", "docker.io/library/a:1", other.as_str()]);
        let secrets = &capture.request.secrets;
        assert_eq!(secrets.len(), 2);
        assert!(secrets[0].id == "a" && secrets[0].optional && !secrets[1].optional);
        assert_eq!(capture.request.ssh[0].id, "default");
        assert_eq!(capture.sources.http[0].url, "http://xxxxx:xxxxx@h/x");
    }
}
