//! Loading: what is accepted, what is refused and with which words, and that nothing panics.
#![allow(clippy::unwrap_used, missing_docs)]

mod mutations;

use buffa::{EnumValue, Message, MessageField};
use cofferdam_digest::Digest;
use cofferdam_graph::{
    Assembler, Graph, Limits, LoadError, Output, encode_definition, encode_op, load,
};
use cofferdam_wire::pb;
use pb::__buffa::oneof::file_action::Action;
use pb::__buffa::oneof::op::Op as Kind;

fn op(kind: impl Into<Kind>, inputs: &[Output]) -> pb::Op {
    pb::Op {
        inputs: inputs.iter().map(Output::input).collect(),
        op: Some(kind.into()),
        ..Default::default()
    }
}

fn source(identifier: &str) -> pb::Op {
    let attrs = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    op(
        pb::SourceOp {
            identifier: identifier.into(),
            attrs: attrs.into_iter().collect(),
            ..Default::default()
        },
        &[],
    )
}

fn root_mount() -> pb::Mount {
    pb::Mount { dest: "/".into(), ..Default::default() }
}

fn exec(args: &[&str], mounts: Vec<pb::Mount>) -> pb::ExecOp {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    let meta = pb::Meta { args, cwd: "/".into(), ..Default::default() };
    pb::ExecOp { meta: MessageField::some(meta), mounts, ..Default::default() }
}

fn mkdir(path: &str, input: i64, output: i64) -> pb::FileAction {
    pb::FileAction {
        input,
        secondaryInput: -1,
        output,
        action: Some(Action::from(pb::FileActionMkDir { path: path.into(), ..Default::default() })),
        ..Default::default()
    }
}

fn file(actions: Vec<pb::FileAction>) -> pb::FileOp {
    pb::FileOp { actions, ..Default::default() }
}

fn default(assembler: &mut Assembler, op: pb::Op) -> Output {
    Output::new(assembler.add(op, pb::OpMetadata::default(), None), 0)
}

/// A definition whose target is `last` over one source.
fn over_source(last: impl Into<Kind>) -> pb::Definition {
    let mut assembler = Assembler::new();
    let base = default(&mut assembler, source("docker-image://docker.io/library/alpine:latest"));
    let target = default(&mut assembler, op(last, &[base]));
    assembler.finish(&target)
}

fn refusal(definition: &pb::Definition) -> String {
    load(definition, &Limits::default()).unwrap_err().to_string()
}

fn sample() -> pb::Definition {
    let mut assembler = Assembler::new();
    let info = assembler.add_source_info(pb::SourceInfo {
        filename: "Dockerfile".into(),
        data: b"FROM alpine\nRUN true\n".to_vec(),
        language: "Dockerfile".into(),
        definition: MessageField::some(pb::Definition::default()),
        ..Default::default()
    });
    let unused = assembler.add_source_info(pb::SourceInfo::default());
    assert_ne!(info, unused);
    let base = default(&mut assembler, source("docker-image://docker.io/library/alpine:latest"));
    let context = default(&mut assembler, source("local://context"));
    let metadata = pb::OpMetadata {
        description: std::iter::once(("llb.customname".into(), "[2/3] RUN true".into())).collect(),
        caps: std::iter::once(("exec.meta.base".into(), true)).collect(),
        ignore_cache: true,
        ..Default::default()
    };
    let position = |line| MessageField::some(pb::Position { line, ..Default::default() });
    let range = pb::Range { start: position(2), end: position(2), ..Default::default() };
    let cache = pb::Mount {
        dest: "/cache".into(),
        input: -1,
        output: -1,
        mountType: EnumValue::Known(pb::MountType::CACHE),
        cacheOpt: MessageField::some(pb::CacheOpt { ID: "c".into(), ..Default::default() }),
        ..Default::default()
    };
    let bind = pb::Mount { dest: "/src".into(), input: 1, output: 1, ..Default::default() };
    let run = op(exec(&["true"], vec![root_mount(), cache, bind]), &[base, context]);
    let run = assembler.add(run, metadata, Some((info, vec![range])));
    let copy = pb::FileAction {
        input: 0,
        secondaryInput: 1,
        output: 0,
        action: Some(Action::from(pb::FileActionCopy {
            src: "/a".into(),
            dest: "/b".into(),
            owner: MessageField::some(pb::ChownOpt {
                user: MessageField::some(pb::UserOpt {
                    user: Some(
                        pb::NamedUserOpt { name: "web".into(), input: 0, ..Default::default() }
                            .into(),
                    ),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    };
    let run = [Output::new(run, 0), Output::new(run, 1)];
    let copy = default(&mut assembler, op(file(vec![copy]), &run));
    let diff = pb::DiffOp {
        lower: MessageField::some(pb::LowerDiffInput { input: -1, ..Default::default() }),
        upper: MessageField::some(pb::UpperDiffInput::default()),
        ..Default::default()
    };
    let diff = default(&mut assembler, op(diff, &[copy]));
    let merge = pb::MergeOp {
        inputs: (0..2).map(|input| pb::MergeInput { input, ..Default::default() }).collect(),
        ..Default::default()
    };
    let target = default(&mut assembler, op(merge, &[diff, copy]));
    assembler.finish(&target)
}

#[test]
fn a_graph_keeps_everything_the_definition_says() {
    let definition = sample();
    let graph = load(&definition, &Limits::default()).unwrap();
    let vertices: Vec<_> = graph.vertices().collect();
    assert_eq!(vertices.len(), 6);
    let target = graph.target().unwrap();
    assert_eq!(target.vertex.digest, vertices[5].digest);
    for (position, vertex) in vertices.iter().enumerate() {
        for input in &vertex.inputs {
            let found = vertices.iter().position(|other| other.digest == input.vertex.digest);
            assert!(found.unwrap() < position, "an input comes after its consumer");
        }
        let bytes = definition.def.iter().find(|bytes| Digest::of(bytes) == vertex.digest);
        assert_eq!(pb::Op::decode_from_slice(bytes.unwrap()).unwrap(), vertex.op);
    }
    let run = vertices.iter().find(|vertex| vertex.ignore_cache()).unwrap();
    assert_eq!(run.name(), "[2/3] RUN true");
    assert_eq!(run.sources.len(), 1);
    assert_eq!(run.sources[0].info.filename, "Dockerfile");
    assert_eq!(run.sources[0].ranges[0].start.line, 2);
    assert_eq!(definition.Source.infos.len(), 1, "an unused source file was sent");
    let copy = vertices.iter().find(|vertex| vertex.name() == "copy /a /b").unwrap();
    assert_eq!(copy.inputs[1].output, 1);
    assert!(vertices[5].name().starts_with("merge (diff scratch -> (copy /a /b), copy"));
}

#[test]
fn definitions_that_are_no_graph_are_refused_with_the_known_words() {
    assert_eq!(refusal(&pb::Definition::default()), "invalid empty definition");
    let only = |op: &pb::Op| pb::Definition { def: vec![encode_op(op)], ..Default::default() };
    assert_eq!(refusal(&only(&source("local://a"))), "invalid LLB with 1 vertexes");
    let dangling = Output::new(Digest::of("nothing"), 0);
    let terminal = pb::Op { inputs: vec![dangling.input()], ..Default::default() };
    assert_eq!(
        refusal(&only(&terminal)),
        format!("invalid missing input digest {}", dangling.digest)
    );
    let mut definition = over_source(exec(&["true"], vec![root_mount()]));
    definition.def.truncate(2);
    assert_eq!(refusal(&definition), "invalid LLB with more than one input on last vertex");
    definition.def.swap(0, 1);
    assert_eq!(
        refusal(&definition),
        "invalid missing input digest ".to_owned() + &Digest::of(&definition.def[1]).to_string()
    );
    let garbage = pb::Definition { def: vec![vec![0xff; 9], vec![]], ..Default::default() };
    assert_eq!(refusal(&garbage), "failed to parse llb proto op");
}

#[test]
fn indexes_out_of_range_are_refused() {
    let with_target = |index| {
        let mut assembler = Assembler::new();
        let base = default(&mut assembler, source("local://a"));
        let run = default(&mut assembler, op(exec(&["true"], vec![root_mount()]), &[base]));
        assembler.finish(&Output::new(run.digest, index))
    };
    assert!(load(&with_target(0), &Limits::default()).is_ok());
    assert_eq!(refusal(&with_target(-1)), "invalid input 0 output index -1");
    assert!(refusal(&with_target(1)).starts_with("invalid input 0 output index 1: "));
    assert!(refusal(&with_target(i64::MAX)).contains("has 1 outputs"));

    let mount = |input, output| pb::Mount { input, output, ..root_mount() };
    for (input, output) in [(1, 0), (-2, 0), (i64::MIN, 0), (i64::MAX, 0), (0, -2)] {
        let text = refusal(&over_source(exec(&["true"], vec![mount(input, output)])));
        assert!(text.starts_with("invalid mount "), "{text}");
    }
    for (actions, words) in [
        (vec![], "invalid file op with no actions"),
        (vec![mkdir("/a", 0, -1)], "no outputs specified"),
        (vec![mkdir("/a", 5, 0)], "invalid input index 5, 2 provided"),
        (vec![mkdir("/a", -2, 0)], "invalid input index -2, 2 provided"),
        (vec![mkdir("/a", 1, 0)], "loop from index 1"),
        (vec![mkdir("/a", 0, 1)], "missing output index 0"),
        (vec![mkdir("/a", 0, 0), mkdir("/b", 1, 0)], "duplicate output 0"),
        (vec![pb::FileAction::default()], "invalid file op with no kind of action"),
    ] {
        assert_eq!(refusal(&over_source(file(actions))), words);
    }
    let diff = pb::DiffOp {
        lower: MessageField::some(pb::LowerDiffInput { input: 7, ..Default::default() }),
        upper: MessageField::some(pb::UpperDiffInput::default()),
        ..Default::default()
    };
    assert_eq!(refusal(&over_source(diff)), "invalid diff input index 7, 1 provided");
}

#[test]
fn ops_without_their_parts_are_refused_with_the_known_words() {
    let source_mount = pb::Mount { dest: "/src".into(), ..Default::default() };
    let secret_root =
        pb::Mount { mountType: EnumValue::Known(pb::MountType::SECRET), ..root_mount() };
    for (kind, words) in [
        (Kind::from(pb::ExecOp::default()), "invalid exec op with no meta"),
        (exec(&[], vec![root_mount()]).into(), "invalid exec op with no args"),
        (exec(&["a"], vec![]).into(), "invalid exec op with no mounts"),
        (exec(&["a"], vec![source_mount]).into(), "invalid exec op with no rootfs"),
        (exec(&["a"], vec![secret_root]).into(), "invalid mount type SECRET for /"),
        (pb::DiffOp::default().into(), "invalid diff op with nil lower or upper input"),
        (pb::PassthroughOp::default().into(), "invalid passthrough op with no id"),
        (pb::SourceOp::default().into(), "invalid source op with no identifier"),
        (
            pb::PassthroughOp { id: "p".into(), outputs: vec![3], ..Default::default() }.into(),
            "invalid passthrough output input index 3, 1 provided",
        ),
    ] {
        assert_eq!(refusal(&over_source(kind)), words);
    }
}

#[test]
fn enum_values_from_elsewhere_are_refused() {
    for value in [2, 99, -1, i32::MAX, i32::MIN] {
        let mut run = exec(&["true"], vec![root_mount()]);
        run.security = EnumValue::Unknown(value);
        assert_eq!(refusal(&over_source(run)), format!("invalid security mode {value}"));
    }
    let mut run = exec(&["true"], vec![root_mount()]);
    run.network = EnumValue::Unknown(3);
    assert_eq!(refusal(&over_source(run)), "invalid network mode 3");
    let mount = |change: fn(&mut pb::Mount)| {
        let mut mount = pb::Mount { dest: "/m".into(), ..Default::default() };
        change(&mut mount);
        refusal(&over_source(exec(&["true"], vec![root_mount(), mount])))
    };
    assert_eq!(mount(|mount| mount.mountType = EnumValue::Unknown(5)), "invalid mount type 5");
    assert_eq!(
        mount(|mount| mount.contentCache = EnumValue::Unknown(-7)),
        "invalid mount content cache -7"
    );
    assert_eq!(
        mount(|mount| {
            let sharing = EnumValue::Unknown(3);
            mount.cacheOpt = MessageField::some(pb::CacheOpt { sharing, ..Default::default() });
        }),
        "invalid cache mount sharing 3"
    );
}

#[test]
fn platforms_are_words_and_normalised() {
    let with = |architecture: &str| {
        let mut assembler = Assembler::new();
        let mut base = source("docker-image://docker.io/library/alpine:latest");
        base.platform = MessageField::some(pb::Platform {
            OS: "Linux".into(),
            Architecture: architecture.into(),
            ..Default::default()
        });
        let base = default(&mut assembler, base);
        assembler.finish(&base)
    };
    let graph = load(&with("x86_64"), &Limits::default()).unwrap();
    let vertex = &graph.target().unwrap().vertex;
    assert_eq!(vertex.platform.as_ref().unwrap().Architecture, "amd64");
    assert_eq!(vertex.op.platform.Architecture, "x86_64", "the op itself was changed");
    assert_eq!(refusal(&with("../../etc")), "invalid platform component \"../../etc\"");
}

#[test]
fn capabilities_and_source_indexes_are_checked() {
    let definition = |name: &str, location: i32| {
        let mut definition = over_source(exec(&["true"], vec![root_mount()]));
        let digest = Digest::of(&definition.def[1]).to_string();
        let caps = std::iter::once((name.to_owned(), true)).collect();
        let metadata = pb::OpMetadata { caps, ..Default::default() };
        definition.metadata.insert(digest.clone(), metadata);
        let location = pb::Location { sourceIndex: location, ..Default::default() };
        let locations = pb::Locations { locations: vec![location], ..Default::default() };
        definition.Source = MessageField::some(pb::Source {
            locations: std::iter::once((digest, locations)).collect(),
            infos: vec![pb::SourceInfo::default()],
            ..Default::default()
        });
        definition
    };
    assert!(load(&definition("exec.meta.base", 0), &Limits::default()).is_ok());
    assert_eq!(refusal(&definition("exec.teleport", 0)), "unknown API capability exec.teleport");
    assert!(refusal(&definition("exec.meta.base", 1)).starts_with("invalid source index 1"));
    assert!(refusal(&definition("exec.meta.base", -1)).starts_with("invalid source index -1"));
}

#[test]
fn limits_hold() {
    let definition = sample();
    let limited = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        load(&definition, &limits).unwrap_err().to_string()
    };
    assert_eq!(limited(|limits| limits.ops = 6), "invalid LLB with 7 ops, limit is 6");
    assert!(limited(|limits| limits.bytes = 10).contains("bytes, limit is 10"));
    assert!(limited(|limits| limits.mounts = 1).contains("3 mounts, limit is 1"));
    assert!(limited(|limits| limits.actions = 0).contains("1 actions, limit is 0"));
    assert!(limited(|limits| limits.inputs = 1).contains("2 inputs, limit is 1"));
    assert!(limited(|limits| limits.locations = 0).contains("source locations"));
}

fn chain(length: usize) -> (Assembler, Output) {
    let mut assembler = Assembler::new();
    let mut last = default(&mut assembler, source("local://a"));
    for number in 0..length {
        let action = file(vec![mkdir(&format!("/{number}"), 0, 0)]);
        last = default(&mut assembler, op(action, &[last]));
    }
    (assembler, last)
}

#[test]
fn long_chains_cost_no_stack() {
    let run = || {
        let (assembler, last) = chain(15_000);
        let definition = assembler.finish(&last);
        let mut reversed = definition.clone();
        let terminal = reversed.def.pop().unwrap();
        reversed.def.reverse();
        reversed.def.push(terminal);
        let graph = load(&reversed, &Limits::default()).unwrap();
        assert_eq!(graph.vertices().count(), 15_001);
        let target = graph.target().cloned().unwrap();
        drop(graph);
        assert_eq!(target.vertex.inputs.len(), 1);
        drop(target);
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn assembling_collapses_equal_ops_and_is_stable() {
    let build = || {
        let mut assembler = Assembler::new();
        let one = default(&mut assembler, source("local://a"));
        let two = default(&mut assembler, source("local://a"));
        assert_eq!(one, two);
        default(&mut assembler, source("local://unused"));
        let target = default(&mut assembler, op(file(vec![mkdir("/a", 0, 0)]), &[one]));
        let metadata = pb::OpMetadata { ignore_cache: true, ..Default::default() };
        assembler.add(op(file(vec![mkdir("/a", 0, 0)]), &[one]), metadata, None);
        assembler.finish(&target)
    };
    let definition = build();
    assert_eq!(definition.def.len(), 3);
    assert_eq!(encode_definition(&definition), encode_definition(&build()));
    assert!(load(&definition, &Limits::default()).unwrap().target().unwrap().vertex.ignore_cache());
}

#[test]
fn imports_keep_foreign_bytes_metadata_and_sources() {
    let mut foreign = sample();
    // Bytes that our own encoder would not write: a field twice, of which the last counts.
    let mut odd = encode_op(&source("local://foreign"));
    odd.splice(0..0, odd.clone());
    let odd_digest = Digest::of(&odd);
    let terminal =
        pb::Op { inputs: vec![Output::new(odd_digest, 0).input()], ..Default::default() };
    let odd_only =
        pb::Definition { def: vec![odd.clone(), encode_op(&terminal)], ..Default::default() };

    let mut assembler = Assembler::new();
    assembler.add_source_info(pb::SourceInfo { filename: "own".into(), ..Default::default() });
    let imported = assembler.import(&foreign).unwrap().unwrap();
    assert_eq!(encode_definition(&assembler.finish(&imported)), encode_definition(&foreign));
    let odd_output = assembler.import(&odd_only).unwrap().unwrap();
    let target = default(&mut assembler, op(file(vec![mkdir("/a", 0, 0)]), &[odd_output]));
    assert_eq!(assembler.finish(&target).def[0], odd);
    assert!(assembler.import(&pb::Definition::default()).unwrap().is_none());

    foreign.def[0][3] ^= 0xff;
    assert!(matches!(
        assembler.import(&foreign),
        Err(LoadError::MissingInput(_) | LoadError::Parse { .. })
    ));
}

#[test]
fn scratch_is_a_graph_without_target() {
    assert!(Graph::scratch().target().is_none());
    assert_eq!(Graph::scratch().vertices().count(), 0);
}
