//! From the text of a project descriptor to its value, schema by schema.
//!
//! Follows the project descriptor extension of the specification, and pack where that is silent.
//! Keys that a schema does not know are told, never obeyed.

use cofferdam_cnb::{FileError, License, parse_toml};
use serde::Deserialize;
use toml::{Table, Value};

use super::{EnvEntry, GroupEntry, GroupModule, MAX_GROUP, ProjectDescriptor, ProjectInfo, Schema};
use crate::inline::{Script, inline_buildpack};
use crate::text::{env_name_problem, printable, short};

/// Most keys that a warning names.
const MAX_NAMED: usize = 16;

#[derive(Deserialize)]
struct Head {
    #[serde(default, rename = "_")]
    project: HeadProject,
}

#[derive(Default, Deserialize)]
struct HeadProject {
    #[serde(default, rename = "schema-version")]
    schema: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct First {
    #[serde(default)]
    project: RawProject,
    #[serde(default)]
    build: FirstBuild,
    #[serde(default)]
    metadata: Table,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FirstBuild {
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    buildpacks: Vec<RawGroup>,
    env: Vec<RawEnv>,
    builder: Option<String>,
}

#[derive(Deserialize)]
struct Later {
    #[serde(default, rename = "_")]
    project: RawProject,
    #[serde(default)]
    io: Io,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Io {
    buildpacks: Buildpacks,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Buildpacks {
    builder: Option<String>,
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    group: Vec<RawGroup>,
    pre: RawGroups,
    post: RawGroups,
    build: RawBuild,
    env: MisplacedEnv,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawGroups {
    group: Vec<RawGroup>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawBuild {
    env: Vec<RawEnv>,
}

/// `[[io.buildpacks.env.build]]`, which many files have instead of `[[io.buildpacks.build.env]]`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct MisplacedEnv {
    build: Vec<RawEnv>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RawProject {
    id: String,
    name: String,
    version: String,
    authors: Vec<String>,
    licenses: Vec<License>,
    documentation_url: String,
    source_url: String,
    metadata: Table,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RawGroup {
    id: String,
    version: String,
    uri: String,
    script: Option<RawScript>,
    exec_env: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawScript {
    api: String,
    inline: String,
    shell: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RawEnv {
    name: String,
    value: String,
    exec_env: Vec<String>,
}

/// What both forms of the file come to.
struct Parts {
    schema: Schema,
    project: RawProject,
    metadata: Table,
    builder: Option<String>,
    include: Option<Vec<String>>,
    exclude: Option<Vec<String>>,
    lists: [(&'static str, Vec<RawGroup>); 3],
    env: (&'static str, Vec<RawEnv>),
}

pub(super) fn parse(
    file: &str,
    bytes: &[u8],
) -> Result<(ProjectDescriptor, Vec<String>), FileError> {
    let file = &printable(file);
    let Head { project: HeadProject { schema } } = parse_toml(file, bytes)?;
    let mut warnings = Vec::new();
    let schema = match schema.as_str() {
        "" => {
            warnings.push(format!("{file}: no schema version is declared, 0.1 is assumed"));
            Schema::V01
        }
        "0.1" => Schema::V01,
        "0.2" => Schema::V02,
        "0.3" => Schema::V03,
        other => {
            let problem =
                format!("{:?} is not a schema that is known; known are 0.1 to 0.3", short(other));
            return Err(FileError::value(file, "_.schema-version", problem));
        }
    };
    warn_of_unknown(file, schema, &parse_toml(file, bytes)?, &mut warnings);
    let parts = match schema {
        Schema::V01 => first(parse_toml(file, bytes)?),
        Schema::V02 | Schema::V03 => later(file, schema, parse_toml(file, bytes)?, &mut warnings),
    };
    Ok((value(file, parts)?, warnings))
}

fn first(raw: First) -> Parts {
    let First { project, build, metadata } = raw;
    let FirstBuild { include, exclude, buildpacks, env, builder } = build;
    Parts {
        schema: Schema::V01,
        project,
        metadata,
        builder,
        include,
        exclude,
        lists: [("build.buildpacks", buildpacks), ("", Vec::new()), ("", Vec::new())],
        env: ("build.env", env),
    }
}

fn later(file: &str, schema: Schema, raw: Later, warnings: &mut Vec<String>) -> Parts {
    let Later { mut project, io } = raw;
    let Buildpacks { builder, include, exclude, group, pre, post, build, env } = io.buildpacks;
    let metadata = std::mem::take(&mut project.metadata);
    let mut entries = env.build;
    if !entries.is_empty() {
        warnings.push(format!(
            "{file}: [[io.buildpacks.env.build]] is read as [[io.buildpacks.build.env]], its right place"
        ));
    }
    // What is in the right place comes later and wins.
    entries.extend(build.env);
    Parts {
        schema,
        project,
        metadata,
        builder,
        include,
        exclude,
        lists: [
            ("io.buildpacks.group", group),
            ("io.buildpacks.pre.group", pre.group),
            ("io.buildpacks.post.group", post.group),
        ],
        env: ("io.buildpacks.build.env", entries),
    }
}

fn value(file: &str, parts: Parts) -> Result<ProjectDescriptor, FileError> {
    let Parts { schema, project, metadata, builder, include, exclude, lists, env } = parts;
    if include.is_some() && exclude.is_some() {
        let key = if schema == Schema::V01 { "build.include" } else { "io.buildpacks.include" };
        return Err(FileError::value(file, key, "cannot be used together with exclude"));
    }
    for (index, license) in project.licenses.iter().enumerate() {
        if license.kind.is_empty() && license.uri.is_empty() {
            let table = if schema == Schema::V01 { "project" } else { "_" };
            let key = format!("{table}.licenses[{index}]");
            return Err(FileError::value(file, key, "needs a type or a uri"));
        }
    }
    let with_exec_env = schema >= Schema::V03;
    let [groups, pre, post] =
        lists.map(|(list, entries)| group_entries(file, list, entries, with_exec_env));
    let RawProject { id, name, version, authors, licenses, documentation_url, source_url, .. } =
        project;
    Ok(ProjectDescriptor {
        schema,
        project: ProjectInfo {
            id,
            name,
            version,
            authors,
            licenses,
            documentation_url,
            source_url,
        },
        metadata,
        builder: builder.filter(|builder| !builder.is_empty()),
        include: include.unwrap_or_default(),
        exclude: exclude.unwrap_or_default(),
        groups: groups?,
        pre: pre?,
        post: post?,
        env: env_entries(file, env.0, env.1, with_exec_env)?,
    })
}

fn group_entries(
    file: &str,
    list: &str,
    raw: Vec<RawGroup>,
    with_exec_env: bool,
) -> Result<Vec<GroupEntry>, FileError> {
    if raw.len() > MAX_GROUP {
        return Err(FileError::value(file, list, format!("has more than {MAX_GROUP} modules")));
    }
    let entry = |(index, RawGroup { id, version, uri, script, exec_env }): (usize, RawGroup)| {
        let wrong = |problem: String| FileError::value(file, format!("{list}[{index}]"), problem);
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let script = script.filter(|script| !script.inline.is_empty() || !script.api.is_empty());
        let module = match (given(&id), given(&uri), script) {
            (None, None, None) => return Err(wrong("needs an id or a uri".to_owned())),
            (_, Some(_), Some(_)) => {
                return Err(wrong("cannot have both a uri and a script".to_owned()));
            }
            (_, Some(_), None) if !version.is_empty() => {
                return Err(wrong("cannot have both a uri and a version".to_owned()));
            }
            (_, Some(uri), None) => GroupModule::Locator(uri),
            (id, None, Some(RawScript { api, inline, shell })) => {
                if api.is_empty() {
                    return Err(wrong("script.api is missing".to_owned()));
                }
                let script = Script { api, inline, shell };
                let version = given(&version);
                inline_buildpack(id.as_deref(), version.as_deref(), &script)
                    .map_err(|error| wrong(error.to_string()))?;
                GroupModule::Inline { id, version, script }
            }
            (Some(id), None, None) => GroupModule::Locator(match given(&version) {
                Some(version) => format!("{id}@{version}"),
                None => id,
            }),
        };
        let exec_env = if with_exec_env { exec_env } else { Vec::new() };
        Ok(GroupEntry { module, exec_env })
    };
    raw.into_iter().enumerate().map(entry).collect()
}

fn env_entries(
    file: &str,
    list: &str,
    raw: Vec<RawEnv>,
    with_exec_env: bool,
) -> Result<Vec<EnvEntry>, FileError> {
    let entry = |(index, RawEnv { name, value, exec_env }): (usize, RawEnv)| {
        if let Some(problem) = env_name_problem(&name) {
            let key = format!("{list}[{index}].name");
            return Err(FileError::value(file, key, format!("{:?}: {problem}", short(&name))));
        }
        if value.contains('\0') {
            return Err(FileError::value(file, format!("{list}[{index}].value"), "has a NUL"));
        }
        let exec_env = if with_exec_env { exec_env } else { Vec::new() };
        Ok(EnvEntry { name, value, exec_env })
    };
    raw.into_iter().enumerate().map(entry).collect()
}

const PROJECT: &[&str] =
    &["id", "name", "version", "authors", "licenses", "documentation-url", "source-url"];
const GROUP: &[&str] = &["id", "version", "uri", "script"];
const ENV: &[&str] = &["name", "value"];

/// Tells which keys of the tables that a schema owns it does not know.
fn warn_of_unknown(file: &str, schema: Schema, root: &Table, warnings: &mut Vec<String>) {
    let mut unknown = Vec::new();
    let newer = schema >= Schema::V03;
    let with_exec_env = |keys: &[&'static str]| {
        let mut keys = keys.to_vec();
        keys.extend(newer.then_some("exec-env"));
        keys
    };
    let mut look = |path: &[&str], known: &[&str]| {
        check(root, path, &mut String::new(), known, &mut unknown);
    };
    let (group, env) = (with_exec_env(GROUP), with_exec_env(ENV));
    let script: &[&str] = &["api", "inline", "shell"];
    let license: &[&str] = &["type", "uri"];
    if schema == Schema::V01 {
        look(&["project"], PROJECT);
        look(&["project", "licenses"], license);
        look(&["build"], &["include", "exclude", "buildpacks", "env", "builder"]);
        look(&["build", "buildpacks"], &group);
        look(&["build", "buildpacks", "script"], script);
        look(&["build", "env"], &env);
        look(&["io", "buildpacks"], &[]);
    } else {
        look(&["_"], &[PROJECT, &["schema-version", "metadata"]].concat());
        look(&["_", "licenses"], license);
        look(
            &["io", "buildpacks"],
            &["builder", "include", "exclude", "group", "pre", "post", "build", "env"],
        );
        for list in [&["group"][..], &["pre", "group"], &["post", "group"]] {
            let list = [&["io", "buildpacks"], list].concat();
            look(&list, &group);
            look(&[&list[..], &["script"]].concat(), script);
        }
        look(&["io", "buildpacks", "pre"], &["group"]);
        look(&["io", "buildpacks", "post"], &["group"]);
        look(&["io", "buildpacks", "build"], &["env"]);
        look(&["io", "buildpacks", "build", "env"], &env);
        look(&["io", "buildpacks", "env"], &["build"]);
        look(&["io", "buildpacks", "env", "build"], &env);
    }
    let more = if unknown.len() > MAX_NAMED { " and others" } else { "" };
    unknown.truncate(MAX_NAMED);
    if !unknown.is_empty() {
        warnings.push(format!(
            "{file}: keys that schema {} does not have are ignored: {}{more}",
            schema.name(),
            unknown.join(", ")
        ));
    }
}

/// Collects keys that are not known at a path; arrays of tables are looked into.
fn check(table: &Table, path: &[&str], at: &mut String, known: &[&str], unknown: &mut Vec<String>) {
    let Some((first, rest)) = path.split_first() else {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            let key = format!("{at}{}", printable(&short(key)));
            if unknown.len() <= MAX_NAMED && !unknown.contains(&key) {
                unknown.push(key);
            }
        }
        return;
    };
    let before = at.len();
    at.push_str(first);
    at.push('.');
    match table.get(*first) {
        Some(Value::Table(inner)) => check(inner, rest, at, known, unknown),
        Some(Value::Array(items)) => {
            for inner in items.iter().filter_map(Value::as_table) {
                check(inner, rest, at, known, unknown);
            }
        }
        _ => {}
    }
    at.truncate(before);
}
