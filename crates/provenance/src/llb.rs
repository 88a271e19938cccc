//! Ops as JSON, in the form that BuildKit's `solver/pb` writes and reads: field names of
//! `ops.proto`, numbers for enums, zero values left out.
//!
//! Credentials of URLs are hidden, also in commands and their environment.

use std::collections::HashMap;
use std::hash::BuildHasher;

use base64::Engine as _;
use cofferdam_graph::without_credentials;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::file_action::Action;
use cofferdam_wire::pb::__buffa::oneof::op::Op;
use cofferdam_wire::pb::__buffa::oneof::user_opt::User;
use serde_json::{Map, Value, json};

/// Attributes of sources that name a session and nothing of what is built.
const SESSION_ATTRIBUTES: [&str; 2] = ["local.session", "local.unique"];

/// An object that leaves out zero values.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let zero = match &value {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        };
        if !zero {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    /// Text in which URLs may be.
    fn text(self, key: &str, text: &str) -> Self {
        self.put(key, without_credentials(text))
    }

    fn texts(self, key: &str, texts: &[String]) -> Self {
        let texts: Vec<Value> = texts.iter().map(|text| without_credentials(text).into()).collect();
        self.put(key, texts)
    }

    /// A value even when it is zero.
    fn always(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// A message that is there, even an empty one.
    fn message<T>(self, key: &str, message: Option<&T>, write: impl Fn(&T) -> Object) -> Self {
        match message {
            Some(message) => self.always(key, write(message).done()),
            None => self,
        }
    }

    fn messages<T>(self, key: &str, messages: &[T], write: impl Fn(&T) -> Object) -> Self {
        self.put(key, messages.iter().map(|message| write(message).done()).collect::<Vec<_>>())
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

/// An op without its inputs, which steps name in their own way.
pub(crate) fn op(op: &pb::Op) -> Value {
    let kind = match &op.op {
        Some(Op::Exec(op)) => Object::default().always("exec", exec(op).done()),
        Some(Op::Source(op)) => Object::default().always("source", source(op).done()),
        Some(Op::File(op)) => {
            let file = Object::default().messages("actions", &op.actions, action);
            Object::default().always("file", file.done())
        }
        Some(Op::Build(op)) => Object::default().always("build", build(op).done()),
        Some(Op::Merge(op)) => {
            let input = |input: &pb::MergeInput| Object::default().put("input", input.input);
            let merge = Object::default().messages("inputs", &op.inputs, input);
            Object::default().always("merge", merge.done())
        }
        Some(Op::Diff(op)) => Object::default().always("diff", diff(op).done()),
        Some(Op::Passthrough(op)) => {
            let pass = Object::default().text("id", &op.id).put("outputs", op.outputs.clone());
            Object::default().always("passthrough", pass.done())
        }
        None => Object::default(),
    };
    Object::default()
        .always("Op", kind.done())
        .message("platform", op.platform.as_option(), platform)
        .message("constraints", op.constraints.as_option(), |constraints| {
            Object::default().texts("filter", &constraints.filter)
        })
        .done()
}

fn platform(platform: &pb::Platform) -> Object {
    Object::default()
        .put("Architecture", platform.Architecture.clone())
        .put("OS", platform.OS.clone())
        .put("Variant", platform.Variant.clone())
        .put("OSVersion", platform.OSVersion.clone())
        .put("OSFeatures", platform.OSFeatures.clone())
}

fn map<S: BuildHasher>(values: &HashMap<String, String, S>) -> Value {
    let pairs = values.iter().map(|(key, value)| (key.clone(), without_credentials(value).into()));
    Value::Object(pairs.collect())
}

fn source(op: &pb::SourceOp) -> Object {
    let mut attrs = op.attrs.clone();
    attrs.retain(|key, _| !SESSION_ATTRIBUTES.contains(&key.as_str()));
    Object::default().text("identifier", &op.identifier).put("attrs", map(&attrs))
}

fn build(op: &pb::BuildOp) -> Object {
    let inputs = op
        .inputs
        .iter()
        .map(|(key, input)| (key.clone(), Object::default().put("input", input.input).done()));
    Object::default()
        .put("builder", op.builder)
        .put("inputs", Value::Object(inputs.collect()))
        .put("attrs", map(&op.attrs))
}

fn diff(op: &pb::DiffOp) -> Object {
    Object::default()
        .message("lower", op.lower.as_option(), |lower| Object::default().put("input", lower.input))
        .message("upper", op.upper.as_option(), |upper| Object::default().put("input", upper.input))
}

fn exec(op: &pb::ExecOp) -> Object {
    Object::default()
        .message("meta", op.meta.as_option(), meta)
        .messages("mounts", &op.mounts, mount)
        .put("network", op.network.to_i32())
        .put("security", op.security.to_i32())
        .messages("secretenv", &op.secretenv, |secret| {
            Object::default()
                .text("ID", &secret.ID)
                .text("name", &secret.name)
                .put("optional", secret.optional)
        })
        .messages("cdiDevices", &op.cdiDevices, |device| {
            Object::default().text("name", &device.name).put("optional", device.optional)
        })
}

fn meta(meta: &pb::Meta) -> Object {
    Object::default()
        .texts("args", &meta.args)
        .texts("env", &meta.env)
        .text("cwd", &meta.cwd)
        .text("user", &meta.user)
        .message("proxy_env", meta.proxy_env.as_option(), |proxy| {
            Object::default()
                .text("http_proxy", &proxy.http_proxy)
                .text("https_proxy", &proxy.https_proxy)
                .text("ftp_proxy", &proxy.ftp_proxy)
                .text("no_proxy", &proxy.no_proxy)
                .text("all_proxy", &proxy.all_proxy)
        })
        .messages("extraHosts", &meta.extraHosts, |host| {
            Object::default().text("Host", &host.Host).text("IP", &host.IP)
        })
        .text("hostname", &meta.hostname)
        .messages("ulimit", &meta.ulimit, |limit| {
            Object::default()
                .text("Name", &limit.Name)
                .put("Soft", limit.Soft)
                .put("Hard", limit.Hard)
        })
        .text("cgroupParent", &meta.cgroupParent)
        .put("removeMountStubsRecursive", meta.removeMountStubsRecursive)
        .put("validExitCodes", meta.validExitCodes.clone())
}

fn mount(mount: &pb::Mount) -> Object {
    Object::default()
        .put("input", mount.input)
        .text("selector", &mount.selector)
        .text("dest", &mount.dest)
        .put("output", mount.output)
        .put("readonly", mount.readonly)
        .put("mountType", mount.mountType.to_i32())
        .message("TmpfsOpt", mount.TmpfsOpt.as_option(), |tmpfs| {
            Object::default().put("size", tmpfs.size)
        })
        .message("cacheOpt", mount.cacheOpt.as_option(), |cache| {
            Object::default().text("ID", &cache.ID).put("sharing", cache.sharing.to_i32())
        })
        .message("secretOpt", mount.secretOpt.as_option(), |secret| {
            granted(&secret.ID, [secret.uid, secret.gid, secret.mode], secret.optional)
        })
        .message("SSHOpt", mount.SSHOpt.as_option(), |agent| {
            granted(&agent.ID, [agent.uid, agent.gid, agent.mode], agent.optional)
        })
        .text("resultID", &mount.resultID)
        .put("contentCache", mount.contentCache.to_i32())
}

fn granted(id: &str, [uid, gid, mode]: [u32; 3], optional: bool) -> Object {
    Object::default()
        .text("ID", id)
        .put("uid", uid)
        .put("gid", gid)
        .put("mode", mode)
        .put("optional", optional)
}

fn action(action: &pb::FileAction) -> Object {
    let kind = match &action.action {
        Some(Action::Copy(copy)) => json!({ "copy": copied(copy).done() }),
        Some(Action::Mkfile(file)) => json!({ "mkfile": Object::default()
            .text("path", &file.path)
            .put("mode", file.mode)
            .put("data", base64(&file.data))
            .message("owner", file.owner.as_option(), owner)
            .put("timestamp", file.timestamp)
            .done() }),
        Some(Action::Mkdir(directory)) => json!({ "mkdir": Object::default()
            .text("path", &directory.path)
            .put("mode", directory.mode)
            .put("makeParents", directory.makeParents)
            .message("owner", directory.owner.as_option(), owner)
            .put("timestamp", directory.timestamp)
            .done() }),
        Some(Action::Rm(removed)) => json!({ "rm": Object::default()
            .text("path", &removed.path)
            .put("allowNotFound", removed.allowNotFound)
            .put("allowWildcard", removed.allowWildcard)
            .done() }),
        Some(Action::Symlink(link)) => json!({ "symlink": Object::default()
            .text("oldpath", &link.oldpath)
            .text("newpath", &link.newpath)
            .message("owner", link.owner.as_option(), owner)
            .put("timestamp", link.timestamp)
            .done() }),
        None => json!({}),
    };
    Object::default()
        .always("input", action.input)
        .always("secondaryInput", action.secondaryInput)
        .always("output", action.output)
        .always("Action", kind)
}

fn copied(copy: &pb::FileActionCopy) -> Object {
    Object::default()
        .text("src", &copy.src)
        .text("dest", &copy.dest)
        .message("owner", copy.owner.as_option(), owner)
        .put("mode", copy.mode)
        .put("followSymlink", copy.followSymlink)
        .put("dirCopyContents", copy.dirCopyContents)
        .put("attemptUnpackDockerCompatibility", copy.attemptUnpackDockerCompatibility)
        .put("createDestPath", copy.createDestPath)
        .put("allowWildcard", copy.allowWildcard)
        .put("allowEmptyWildcard", copy.allowEmptyWildcard)
        .put("timestamp", copy.timestamp)
        .texts("include_patterns", &copy.include_patterns)
        .texts("exclude_patterns", &copy.exclude_patterns)
        .put("alwaysReplaceExistingDestPaths", copy.alwaysReplaceExistingDestPaths)
        .text("modeStr", &copy.modeStr)
        .texts("required_paths", &copy.required_paths)
}

fn owner(owner: &pb::ChownOpt) -> Object {
    let user = |user: &pb::UserOpt| {
        let named = match &user.user {
            Some(User::ByName(name)) => json!({ "byName":
                Object::default().text("name", &name.name).put("input", name.input).done() }),
            Some(User::ByID(id)) => Object::default().put("byId", *id).done(),
            None => json!({}),
        };
        Object::default().always("User", named)
    };
    Object::default().message("user", owner.user.as_option(), user).message(
        "group",
        owner.group.as_option(),
        user,
    )
}

/// Bytes as Go writes them. Text with URLs in it keeps their credentials to itself.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let shown = std::str::from_utf8(bytes).map(without_credentials);
    let bytes = shown.as_ref().map_or(bytes, |text| text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Places in source files.
pub(crate) fn locations(locations: &pb::Locations) -> Value {
    let position = |position: &pb::Position| {
        Object::default().put("line", position.line).put("character", position.character)
    };
    let range = |range: &pb::Range| {
        Object::default().message("start", range.start.as_option(), position).message(
            "end",
            range.end.as_option(),
            position,
        )
    };
    Object::default()
        .messages("locations", &locations.locations, |location| {
            Object::default().put("sourceIndex", location.sourceIndex).messages(
                "ranges",
                &location.ranges,
                range,
            )
        })
        .done()
}
