//! Graphs that a client sends as bytes: modes that do not exist, wrong indexes, depth, size, paths with dots.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard_buildkit_proto::moby::buildkit::v1::SolveRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::pb;
use cofferdam_tests::{digest, images};
use pb::file_action::Action;
use pb::op::Op as Kind;
use prost::Message;
use tonic::transport::Endpoint;

use crate::attack::{Attack, BUILDER, Control, ONCE, own};
use crate::stage::Stage;

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "graphs",
        "security-modes",
        "CVE-2024-23653, GHSA-7236-3392-c5c6: security modes 1, 2, 99, -1; host network; kinds of mounts",
        BUILDER,
        modes,
        accepted,
    ),
    own(
        "graphs",
        "graph-indexes",
        "CVE-2024-23650, CVE-2026-15792: indexes, missing parts, unknown kinds",
        ONCE,
        indexes,
        accepted,
    ),
    own(
        "graphs",
        "graph-cycles",
        "graphs that have cycles, or lack vertices",
        ONCE,
        cycles,
        accepted,
    ),
    own("graphs", "graph-size", "graphs that are deep, wide or large", ONCE, sizes, accepted),
    own("graphs", "graph-bytes", "bytes that are no graph", ONCE, bytes, accepted),
    own(
        "graphs",
        "file-paths",
        "CVE-2026-15788: rm, mkdir, mkfile and copy of paths with dots",
        ONCE,
        paths,
        accepted,
    ),
    own(
        "graphs",
        "container-names",
        "CVE-2026-33747: names of a client that become paths",
        ONCE,
        names,
        accepted,
    ),
];

/// Ops in order; each refers to earlier ones by their bytes.
#[derive(Default)]
struct Graph(Vec<Vec<u8>>);

impl Graph {
    fn add(&mut self, kind: Option<Kind>, inputs: &[usize]) -> usize {
        let inputs = inputs.iter().map(|at| self.input(*at, 0)).collect();
        self.raw(pb::Op { inputs, op: kind, ..pb::Op::default() })
    }

    fn raw(&mut self, op: pb::Op) -> usize {
        self.0.push(op.encode_to_vec());
        self.0.len() - 1
    }

    fn input(&self, at: usize, index: i64) -> pb::Input {
        pb::Input { digest: digest(&self.0[at]), index }
    }

    fn finish(mut self, last: usize) -> pb::Definition {
        let input = self.input(last, 0);
        self.raw(pb::Op { inputs: vec![input], ..pb::Op::default() });
        pb::Definition { def: self.0, metadata: BTreeMap::new(), source: None }
    }
}

fn source() -> Option<Kind> {
    let identifier = format!("docker-image://{}", images::busybox());
    Some(Kind::Source(pb::SourceOp { identifier, attrs: BTreeMap::new() }))
}

fn exec() -> pb::ExecOp {
    let args = ["true"].map(str::to_owned).to_vec();
    pb::ExecOp {
        meta: Some(pb::Meta { args, cwd: "/".into(), ..pb::Meta::default() }),
        mounts: vec![pb::Mount { dest: "/".into(), ..pb::Mount::default() }],
        ..pb::ExecOp::default()
    }
}

fn run(exec: pb::ExecOp) -> pb::Definition {
    let mut graph = Graph::default();
    let base = graph.add(source(), &[]);
    let last = graph.add(Some(Kind::Exec(exec)), &[base]);
    graph.finish(last)
}

fn action(input: i64, action: Action) -> pb::FileAction {
    pb::FileAction { input, secondary_input: -1, output: 0, action: Some(action) }
}

fn file(actions: Vec<pb::FileAction>) -> pb::Definition {
    let mut graph = Graph::default();
    let base = graph.add(source(), &[]);
    let last = graph.add(Some(Kind::File(pb::FileOp { actions })), &[base]);
    graph.finish(last)
}

fn mkdir(path: &str) -> Action {
    Action::Mkdir(pb::FileActionMkDir {
        path: path.to_owned(),
        mode: 0o755,
        make_parents: true,
        ..pb::FileActionMkDir::default()
    })
}

/// Asks the builder to solve it; gives the error.
fn solve(stage: &Stage, definition: pb::Definition, entitlements: &[&str]) -> Result<(), String> {
    let request = SolveRequest {
        r#ref: format!("walls{}", NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
        definition: Some(definition),
        entitlements: entitlements.iter().map(|name| (*name).to_owned()).collect(),
        ..SolveRequest::default()
    };
    ask(stage, request)
}

static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);

fn ask(stage: &Stage, request: SolveRequest) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(stage.builder.address()).unwrap();
        let mut client = ControlClient::new(endpoint.connect().await.unwrap())
            .max_encoding_message_size(1 << 30);
        let answer = tokio::time::timeout(Duration::from_secs(60), client.solve(request))
            .await
            .expect("no answer in a minute");
        answer.map(|_| ()).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
    })
}

fn refused(stage: &Stage, what: &str, definition: pb::Definition) {
    let error = solve(stage, definition, &[]).expect_err(what);
    assert!(!error.contains("panicked") && !error.contains("transport error"), "{what}: {error}");
}

fn accepted(stage: &Stage) -> Control {
    solve(stage, file(vec![action(0, mkdir("/made"))]), &[]).unwrap();
    solve(stage, run(exec()), &[]).unwrap();
    Control::Shown("the same graphs without the fault are solved".to_owned())
}

fn modes(stage: &Stage) -> String {
    let mut count = 0;
    for entitlements in [&[][..], &["security.insecure", "network.host", "device"]] {
        let mut tried = |what: &str, change: &dyn Fn(&mut pb::ExecOp)| {
            let mut op = exec();
            change(&mut op);
            let answer = solve(stage, run(op), entitlements);
            assert!(answer.is_err(), "{what} {entitlements:?} was accepted");
            count += 1;
        };
        for mode in [1, 2, 99, -1, i32::MAX, i32::MIN] {
            tried(&format!("security {mode}"), &|op| op.security = mode);
        }
        for mode in [1, 3, 77, -1] {
            tried(&format!("network {mode}"), &|op| op.network = mode);
        }
        for kind in [5, 99, -1] {
            tried(&format!("mount {kind}"), &|op| {
                op.mounts.push(pb::Mount {
                    dest: "/m".into(),
                    input: -1,
                    output: -1,
                    mount_type: kind,
                    ..pb::Mount::default()
                })
            });
        }
    }
    format!("{count} refused, whatever entitlements the client claims")
}

fn indexes(stage: &Stage) -> String {
    let mut count = 0;
    let mut tried = |what: &str, definition: pb::Definition| {
        refused(stage, what, definition);
        count += 1;
    };
    for index in [-1, 1, 5, i64::MAX, i64::MIN] {
        let mut op = exec();
        op.mounts[0].input = index;
        tried(&format!("mount input {index}"), run(op));
        let mut graph = Graph::default();
        let base = graph.add(source(), &[]);
        let input = graph.input(base, index);
        graph.raw(pb::Op { inputs: vec![input], ..pb::Op::default() });
        tried(
            &format!("output {index}"),
            pb::Definition { def: graph.0, metadata: BTreeMap::new(), source: None },
        );
        tried(
            &format!("action input {index}"),
            file(vec![action(if index == -1 { 2 } else { index }, mkdir("/a"))]),
        );
    }
    tried("no meta", run(pb::ExecOp { meta: None, ..exec() }));
    tried("no mounts", run(pb::ExecOp { mounts: vec![], ..exec() }));
    tried("no actions", file(vec![]));
    tried("no action", file(vec![pb::FileAction::default()]));
    for kind in [
        Kind::Diff(pb::DiffOp::default()),
        Kind::Merge(pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 7 }, pb::MergeInput { input: -3 }],
        }),
        Kind::Diff(pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: 9 }),
            upper: Some(pb::UpperDiffInput { input: -9 }),
        }),
        Kind::Build(pb::BuildOp::default()),
        Kind::Source(pb::SourceOp::default()),
        Kind::Source(pb::SourceOp { identifier: "nowhere://x".into(), attrs: BTreeMap::new() }),
    ] {
        let mut graph = Graph::default();
        let base = graph.add(source(), &[]);
        let last = graph.add(Some(kind), &[base]);
        tried("a part is missing", graph.finish(last));
    }
    format!("{count} refused")
}

fn cycles(stage: &Stage) -> String {
    // A digest cannot be its own, so what refers to itself refers to nothing that is there.
    let zero = format!("sha256:{}", "0".repeat(64));
    for name in [zero.as_str(), "", "sha256:", "sha256:../../x", "md5:0", &"x".repeat(100_000)] {
        let mut graph = Graph::default();
        let inputs = vec![pb::Input { digest: name.to_owned(), index: 0 }];
        let last = graph.raw(pb::Op { inputs, op: Some(Kind::Exec(exec())), ..pb::Op::default() });
        refused(stage, name, graph.finish(last));
    }
    // Loops that can be written: actions of one op that wait for each other.
    refused(
        stage,
        "actions in a circle",
        file(vec![action(3, mkdir("/a")), action(2, mkdir("/b"))]),
    );
    refused(stage, "an action that waits for itself", file(vec![action(1, mkdir("/a"))]));
    // The last op is not the end: two ends, none.
    let mut graph = Graph::default();
    let base = graph.add(source(), &[]);
    let definition =
        pb::Definition { def: graph.0.clone(), metadata: BTreeMap::new(), source: None };
    refused(stage, "no end", definition);
    let _ = graph.add(source(), &[base]);
    refused(
        stage,
        "no end",
        pb::Definition { def: graph.0, metadata: BTreeMap::new(), source: None },
    );
    "refused".to_owned()
}

fn sizes(stage: &Stage) -> String {
    let begun = Instant::now();
    let chain = |length: usize| {
        let mut graph = Graph::default();
        let mut last = graph.add(source(), &[]);
        for number in 0..length {
            let actions = vec![action(0, mkdir(&format!("/{number}")))];
            last = graph.add(Some(Kind::File(pb::FileOp { actions })), &[last]);
        }
        graph.finish(last)
    };
    refused(stage, "a long chain", chain(100_000));
    let mut graph = Graph::default();
    let base = graph.add(source(), &[]);
    let mut op = exec();
    op.mounts.extend((0..200_000).map(|number| pb::Mount {
        dest: format!("/m{number}"),
        input: -1,
        output: -1,
        mount_type: 4,
        ..pb::Mount::default()
    }));
    let last = graph.add(Some(Kind::Exec(op)), &[base]);
    refused(stage, "200000 mounts", graph.finish(last));
    refused(stage, "many actions", file((0..100_000).map(|_| action(0, mkdir("/a"))).collect()));
    let mut op = exec();
    op.meta.as_mut().unwrap().args = vec!["x".repeat(64 << 20)];
    refused(stage, "an argument of 64 MiB", run(op));
    let mut definition = run(exec());
    let name = digest(&definition.def[1]);
    let description = (0..500_000).map(|number| (format!("k{number}"), "v".repeat(20))).collect();
    definition.metadata.insert(name, pb::OpMetadata { description, ..pb::OpMetadata::default() });
    // Metadata is told and not kept: large or not, the builder lives.
    let _ = solve(stage, definition, &[]);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    format!("refused in {:.1}s", begun.elapsed().as_secs_f64())
}

fn bytes(stage: &Stage) -> String {
    // Messages inside messages, deeper than any reader should follow.
    let mut nested = Vec::new();
    for _ in 0..5000 {
        let mut outer = vec![0x1a];
        prost::encoding::encode_varint(nested.len() as u64, &mut outer);
        outer.extend(&nested);
        nested = outer;
    }
    for def in [
        vec![vec![0xff; 64]],
        vec![vec![]],
        vec![nested],
        vec![vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]],
        vec![vec![0; 1 << 20]],
    ] {
        refused(stage, "noise", pb::Definition { def, metadata: BTreeMap::new(), source: None });
    }
    "refused".to_owned()
}

fn paths(stage: &Stage) -> String {
    let outside = stage.planted.open();
    let outside = outside.display();
    let mut seen = [0, 0];
    for path in [
        format!("/../../../../../../..{outside}/file"),
        format!("../../../../../../..{outside}/file"),
        format!("a/../../../../..{outside}/file"),
        "..".to_owned(),
        "/..".to_owned(),
        "/".to_owned(),
        ".".to_owned(),
        "".to_owned(),
        format!("{outside}"),
        "/proc/self/root/etc".to_owned(),
        format!("/{}", "a/".repeat(3000)),
        format!("/{}", "x".repeat(300)),
        "/nul\0byte".to_owned(),
    ] {
        let copy = pb::FileActionCopy {
            src: path.clone(),
            dest: "/in".into(),
            create_dest_path: true,
            follow_symlink: true,
            dir_copy_contents: true,
            ..pb::FileActionCopy::default()
        };
        let onto = pb::FileActionCopy {
            src: "/bin/busybox".into(),
            dest: path.clone(),
            create_dest_path: true,
            ..pb::FileActionCopy::default()
        };
        for act in [
            Action::Rm(pb::FileActionRm {
                path: path.clone(),
                allow_wildcard: true,
                ..pb::FileActionRm::default()
            }),
            mkdir(&path),
            Action::Mkfile(pb::FileActionMkFile {
                path: path.clone(),
                mode: 0o644,
                data: b"x".to_vec(),
                timestamp: -1,
                ..pb::FileActionMkFile::default()
            }),
            Action::Copy(copy),
            Action::Copy(onto),
            Action::Symlink(pb::FileActionSymlink {
                oldpath: "/x".into(),
                newpath: path.clone(),
                ..pb::FileActionSymlink::default()
            }),
        ] {
            let mut one = action(0, act.clone());
            if matches!(act, Action::Copy(_)) {
                one.secondary_input = 0;
            }
            let answer = solve(stage, file(vec![one]), &[]);
            seen[usize::from(answer.is_ok())] += 1;
        }
        stage.planted.unchanged();
    }
    format!("{} refused, {} inside", seen[0], seen[1])
}

fn names(stage: &Stage) -> String {
    let outside = stage.planted.open();
    let mut count = 0;
    for name in [
        format!("../../../../../..{}/x", outside.display()),
        "x".repeat(70_000),
        "nul\0byte".into(),
        "a/b".into(),
        String::new(),
    ] {
        let request = SolveRequest {
            r#ref: name.clone(),
            definition: Some(file(vec![action(0, mkdir("/a"))])),
            ..SolveRequest::default()
        };
        let _ = ask(stage, request);
        let mut op = exec();
        let meta = op.meta.as_mut().unwrap();
        meta.cgroup_parent = name.clone();
        meta.hostname = name.clone();
        let _ = solve(stage, run(op), &[]);
        let mut op = exec();
        op.mounts.push(pb::Mount {
            dest: format!("/m/{name}"),
            input: -1,
            output: -1,
            mount_type: 3,
            cache_opt: Some(pb::CacheOpt { id: name.clone(), sharing: 0 }),
            ..pb::Mount::default()
        });
        let _ = solve(stage, run(op), &[]);
        stage.planted.unchanged();
        count += 3;
    }
    for parent in ["/", "../..", "/sys/fs/cgroup"] {
        let mut op = exec();
        op.meta.as_mut().unwrap().cgroup_parent = parent.to_owned();
        let _ = solve(stage, run(op), &[]);
        count += 1;
    }
    format!("{count} names, none became a path")
}
