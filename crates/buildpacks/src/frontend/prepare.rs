//! Before anything runs: builder, modules, trust, flow, the app's files.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use cofferdam_cnb::{ApiVersion, Descriptor, Env, Kind, Order};
use cofferdam_lifecycle::{ATTEMPT as ATTEMPT_PROGRAM, Modules};

use super::bench::{Allowance, Bench, Wanted};
use super::error::BuildErrorKind;
use super::graph::{Change, Copying, Tree};
use super::modules::{Asking, Resolved};
use super::session::{ATTEMPT, PLAN, PLATFORM, Setting, phase_title};
use crate::flow::{Flow, decide};
use crate::order::{Asked, effective_order, ignores_pre_and_post};
use crate::project::{GroupModule, is_for_exec_env};
use crate::{BuilderImage, BuilderImageError, ProjectDescriptor, Trust, TrustEntry, Verdict};

/// Name of the project descriptor.
const DESCRIPTOR: &str = "project.toml";

/// What is settled, with the orders detection goes by.
pub(crate) struct Prepared {
    pub(crate) setting: Setting,
    pub(crate) order: Order,
    pub(crate) order_extensions: Order,
    pub(crate) warnings: Vec<String>,
}

impl Bench<'_> {
    /// Settles everything that needs no sandbox.
    pub(crate) async fn prepare(&self) -> Result<Prepared, BuildErrorKind> {
        let (project, mut warnings) = self.project().await?;
        let builder_name = self.request.get("builder").map(str::to_owned);
        let builder_name = builder_name.or_else(|| project.builder.clone());
        let builder_name = builder_name.ok_or_else(|| {
            BuildErrorKind::attribute(
                "builder",
                "is missing: give --builder, or name one in project.toml",
            )
        })?;
        let image =
            self.need_image(&builder_name, &format!("look up builder {builder_name}")).await?;
        let builder = BuilderImage::parse(&image.config)
            .map_err(|source| BuildErrorKind::Builder { image: builder_name.clone(), source })?;
        let platform_api = self
            .platform_api(&builder)
            .map_err(|source| BuildErrorKind::Builder { image: builder_name.clone(), source })?;
        let verdict = self.judge(&builder_name, image.digest)?;

        let mut resolved = Resolved::default();
        let (asked, from_project) = self.asked(&builder, &project, &mut resolved).await?;
        if ignores_pre_and_post(&asked, &from_project) {
            warnings.push(
                "pre- and post-buildpacks are ignored, since buildpacks are declared".to_owned(),
            );
        }
        let (order, order_extensions) =
            effective_order(&builder.order, &builder.order_extensions, &asked, &from_project)?;
        let trust_extra = self.request.is("trust-extra-buildpacks");
        let extensions = order_extensions.iter().any(|group| !group.group.is_empty());
        let decision = decide(&verdict, &resolved.origins, trust_extra, extensions);
        warnings.append(&mut resolved.warnings);
        warnings.extend(decision.warnings.iter().cloned());

        let title = phase_title(decision.flow, "analyze", &format!("pull builder {builder_name}"));
        let base = self.image(&image, &title);
        let build_tree = self.with_modules(base, &resolved.added);
        let (modules, unusable) = self.modules(&builder, base, &resolved, decision.flow).await?;
        let owner = (
            self.request.id("uid")?.unwrap_or(builder.uid),
            self.request.id("gid")?.unwrap_or(builder.gid),
        );
        let platform_env = self.platform_env(&project);
        let setting = Setting {
            image_env: self.image_env(&builder, base).await?,
            build_config: self
                .files(base, "/cnb/build-config/env", &mut Allowance::default())
                .await?,
            platform_tree: self.platform_tree(base, &platform_env, decision.flow),
            attempt_tree: self.attempt_tree(decision.flow, owner),
            app: self.app(&project, owner, decision.flow)?,
            project,
            builder_name,
            builder_digest: image.digest,
            builder,
            build_tree,
            decision,
            modules,
            unusable,
            owner,
            platform_env,
            platform_api,
            extended_env: Env::new(),
        };
        Ok(Prepared { setting, order, order_extensions, warnings })
    }

    fn platform_api(&self, builder: &BuilderImage) -> Result<ApiVersion, BuilderImageError> {
        match self.request.platform_api {
            Some(asked) => Ok(asked),
            None => builder.platform_api(),
        }
    }

    async fn project(&self) -> Result<(ProjectDescriptor, Vec<String>), BuildErrorKind> {
        if let Some(text) = self.request.get("descriptor-text") {
            return Ok(ProjectDescriptor::parse(DESCRIPTOR, text.as_bytes())?);
        }
        let given = self.request.get("descriptor");
        let path = given.unwrap_or(DESCRIPTOR);
        let wanted = Wanted { follow: &[path], ..Wanted::default() };
        let tree = self.context("load project descriptor", &wanted)?;
        match self.read(tree, path).await? {
            Some(bytes) => Ok(ProjectDescriptor::parse(path, &bytes)?),
            None if given.is_some() => {
                Err(BuildErrorKind::attribute("descriptor", format!("there is no file {path:?}")))
            }
            None => Ok(Default::default()),
        }
    }

    fn judge(
        &self,
        builder: &str,
        digest: cofferdam_digest::Digest,
    ) -> Result<Verdict, BuildErrorKind> {
        let (operator_trusted, operator_denied) = self.client.operator_trust();
        let entries = |operator: &[String], request: &[String]| {
            operator
                .iter()
                .chain(request)
                .map(|text| TrustEntry::parse(text))
                .collect::<Result<Vec<_>, _>>()
        };
        let trusted = entries(&operator_trusted, &self.request.trusted)?;
        let denied = entries(&operator_denied, &self.request.denied)?;
        let trust = Trust::new(trusted, denied, self.request.is("trust-builder"));
        Ok(trust.judge(builder, digest)?)
    }

    /// The modules that the request and the project name.
    async fn asked(
        &self,
        builder: &BuilderImage,
        project: &ProjectDescriptor,
        resolved: &mut Resolved,
    ) -> Result<(Asked, Asked), BuildErrorKind> {
        let request = &self.request;
        let command_line =
            async |option: &'static str, kind, list: &[String], resolved: &mut Resolved| {
                let modules = list.iter().cloned().map(GroupModule::Locator).collect();
                self.resolve(Some(builder), Asking { option, kind, modules }, resolved).await
            };
        let pack = Kind::Buildpack;
        let asked = Asked {
            buildpacks: command_line("--buildpack", pack, &request.buildpacks, resolved).await?,
            pre: command_line("--pre-buildpack", pack, &request.pre, resolved).await?,
            post: command_line("--post-buildpack", pack, &request.post, resolved).await?,
            extensions: command_line("--extension", Kind::Extension, &request.extensions, resolved)
                .await?,
        };
        let listed = async |list: &[crate::GroupEntry], used: bool, resolved: &mut Resolved| {
            let wanted =
                list.iter().filter(|entry| is_for_exec_env(&entry.exec_env, &request.exec_env));
            // What the command line replaces takes no part, and does not decide the flow either.
            let modules =
                if used { wanted.map(|entry| entry.module.clone()).collect() } else { Vec::new() };
            let asking = Asking { option: DESCRIPTOR, kind: pack, modules };
            self.resolve(Some(builder), asking, resolved).await
        };
        let declared = !asked.buildpacks.is_empty();
        let buildpacks = listed(&project.groups, !declared, resolved).await?;
        let around = !declared && buildpacks.is_empty();
        let from_project = Asked {
            buildpacks,
            pre: listed(&project.pre, around && asked.pre.is_empty(), resolved).await?,
            post: listed(&project.post, around && asked.post.is_empty(), resolved).await?,
            extensions: Vec::new(),
        };
        Ok((asked, from_project))
    }

    /// Every module there is, with what its descriptor says.
    async fn modules(
        &self,
        builder: &BuilderImage,
        base: Tree,
        resolved: &Resolved,
        flow: Flow,
    ) -> Result<(Modules, BTreeMap<(Kind, String), String>), BuildErrorKind> {
        let step = self.client.step(&phase_title(flow, "analyze", "read modules"));
        let mut all: Vec<Arc<Descriptor>> = Vec::new();
        let mut unusable = BTreeMap::new();
        let added: HashSet<_> =
            resolved.added.iter().map(|added| added.descriptor.module()).collect();
        for (kind, layers) in
            [(Kind::Buildpack, &builder.layers), (Kind::Extension, &builder.extension_layers)]
        {
            for (id, versions) in layers {
                for version in versions.keys() {
                    let module = super::modules::module_ref(kind, id, version)?;
                    if added.contains(&module) {
                        continue;
                    }
                    // One that cannot be used is an error only where the order names it.
                    match self.descriptor(base, &module.directory(), kind, &module).await {
                        Ok(descriptor) => all.push(descriptor),
                        Err(BuildErrorKind::Client(error)) => return Err(error.into()),
                        Err(error) => {
                            step.log(&error.to_string());
                            unusable.insert((kind, id.clone()), error.to_string());
                        }
                    }
                }
            }
        }
        step.done();
        all.extend(resolved.added.iter().map(|added| Arc::clone(&added.descriptor)));
        Ok((Modules::new(all), unusable))
    }

    /// Variables of the builder image, with the home of the user that builds.
    async fn image_env(&self, builder: &BuilderImage, base: Tree) -> Result<Env, BuildErrorKind> {
        let mut env = Env::new();
        for (name, value) in &builder.env {
            env.set(name.clone(), value.clone());
        }
        if env.get("HOME").is_none() {
            let passwd = self.read(base, "/etc/passwd").await?.unwrap_or_default();
            let passwd = String::from_utf8_lossy(&passwd).into_owned();
            let uid = builder.uid.to_string();
            let home = passwd.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                (fields.get(2) == Some(&uid.as_str())).then(|| fields.get(5).copied())?
            });
            env.set("HOME", home.filter(|home| home.starts_with('/')).unwrap_or("/"));
        }
        Ok(env)
    }

    fn platform_env(&self, project: &ProjectDescriptor) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = project
            .env_for(&self.request.exec_env)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        env.extend(self.request.env.clone());
        env
    }

    /// `/platform` as modules see it: the builder's own, with users' variables on top.
    fn platform_tree(&self, base: Tree, env: &BTreeMap<String, String>, flow: Flow) -> Tree {
        let directory = format!("{PLATFORM}/env");
        let make = |path| Change::Directory { path, mode: 0o755, owner: (0, 0) };
        let include = vec!["env/*".to_owned()];
        let options = Copying { contents: true, include, ..Copying::default() };
        let paths: Vec<String> = env.keys().map(|name| format!("{directory}/{name}")).collect();
        let mut changes = vec![
            Change::Copy {
                source: base,
                path: PLATFORM,
                dest: PLATFORM,
                owner: Some((0, 0)),
                options,
            },
            make(directory.as_str()),
        ];
        changes.extend(env.values().zip(&paths).map(|(value, path)| Change::File {
            path,
            mode: 0o644,
            data: value.as_bytes(),
            owner: (0, 0),
        }));
        self.graph.files(
            &phase_title(flow, "analyze", "write the platform directory"),
            None,
            &changes,
        )
    }

    /// The program that notes exit codes, and room for what it notes and for a plan.
    fn attempt_tree(&self, flow: Flow, owner: (u32, u32)) -> Tree {
        let path = format!("{ATTEMPT}/attempt");
        let changes = [
            Change::Directory { path: ATTEMPT, mode: 0o755, owner: (0, 0) },
            Change::Directory { path: PLAN, mode: 0o755, owner },
            Change::File { path: &path, mode: 0o755, data: ATTEMPT_PROGRAM, owner: (0, 0) },
        ];
        self.graph.files(&phase_title(flow, "analyze", "place programs"), None, &changes)
    }

    /// The app's files, owned by the user that builds.
    fn app(
        &self,
        project: &ProjectDescriptor,
        owner: (u32, u32),
        flow: Flow,
    ) -> Result<Tree, BuildErrorKind> {
        let exclude = anywhere(&project.exclude);
        let include = anywhere(&project.include);
        let wanted = Wanted { include: &include, exclude: &exclude, ..Wanted::default() };
        let source = self.context("load the app", &wanted)?;
        let workspace = self.request.workspace.as_str();
        // Locally excluded files are never sent; those of a repository are left out here.
        let options = Copying { contents: true, include, exclude, ..Copying::default() };
        let changes = [
            Change::Directory { path: workspace, mode: 0o755, owner },
            Change::Copy { source, path: "/", dest: workspace, owner: Some(owner), options },
        ];
        Ok(self.graph.files(&phase_title(flow, "analyze", "copy the app"), None, &changes))
    }
}

/// Patterns of `.gitignore` as patterns that are anchored: a name alone matches at any depth.
fn anywhere(patterns: &[String]) -> Vec<String> {
    let one = |pattern: &String| {
        let (negated, rest) = match pattern.strip_prefix('!') {
            Some(rest) => ("!", rest),
            None => ("", pattern.as_str()),
        };
        let rest = rest.trim_end_matches('/');
        match rest.strip_prefix('/') {
            Some(anchored) => format!("{negated}{anchored}"),
            None if rest.contains('/') => format!("{negated}{rest}"),
            None => format!("{negated}**/{rest}"),
        }
    };
    patterns.iter().filter(|pattern| !pattern.trim().is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_names_match_at_any_depth() {
        let patterns = ["node_modules", "/build/", "docs/*.md", "!keep", " "].map(str::to_owned);
        assert_eq!(anywhere(&patterns), ["**/node_modules", "build", "docs/*.md", "!**/keep"]);
    }
}
