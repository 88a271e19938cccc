//! Files and names that decide what a buildpacks build does: project, builder and package
//! descriptors, trust lists, locators, image names, builder images.
#![no_main]

use cofferdam_buildpacks::{
    BuilderImage, BuilderToml, LocalKind, Locator, PackageToml, ProjectDescriptor, Surroundings,
    Trust, TrustFile,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok((project, _)) = ProjectDescriptor::parse("project.toml", data) {
        let _ = (project.local_paths().len(), project.label(), project.env_for("production").len());
    }
    let _ = BuilderToml::parse("builder.toml", data);
    let _ = PackageToml::parse("package.toml", data);
    if let Ok(file) = TrustFile::parse("trust.toml", data) {
        let again = TrustFile::parse("trust.toml", file.render().as_bytes());
        assert!(again.is_ok_and(|again| again == file));
    }
    if let Ok(image) = BuilderImage::parse(data) {
        assert!(image.uid > 0 && image.gid > 0);
        let _ = image.platform_api();
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let here = Surroundings {
            local: &|path| path.starts_with('.').then_some(LocalKind::Directory),
            in_builder: &|_, version| version.is_none(),
        };
        if let Err(error) = Locator::parse(text, here) {
            assert!(!error.to_string().contains('\u{1b}'));
        }
        let digest = cofferdam_digest::Digest::of(data);
        let _ = Trust::new(Vec::new(), Vec::new(), false).judge(text, digest);
    }
});
