"""What every program here does around what it measures: arguments, the base image, a registry, results, and leaving nothing behind."""

import contextlib
import datetime
import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from . import cleanup, machine, peers
from .registry import Registry
from .rows import Bench
from .workloads import Workloads

TOP = Path(__file__).resolve().parent.parent.parent


def tell(text):
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser, rows, runs):
    """Arguments that all have."""
    parser.add_argument("--program", default=TOP / "target/release/cofferdam", type=Path)
    parser.add_argument("--buildkitd", type=Path, help="a buildkitd to measure beside ours")
    parser.add_argument("--buildctl", type=Path, help="the client for both; without it, ours is")
    parser.add_argument("--buildkitd-version", help="what to call a buildkitd that does not know its version")
    parser.add_argument("--rows", default=",".join(row.name for row in rows), help="default: %(default)s")
    parser.add_argument("--runs", default=runs, type=int, help="default: %(default)s")
    parser.add_argument("--out", default=TOP / "bench/results", type=Path)
    parser.add_argument("--work", default=TOP / "target/bench", type=Path)


def parsed(parser, rows):
    """What was given, with rows for their names."""
    given = parser.parse_args()
    known = {row.name: row for row in rows}
    try:
        given.rows = [known[name] for name in given.rows.split(",")]
    except KeyError as unknown:
        parser.error(f"no row {unknown}; there are {', '.join(known)}")
    for program in filter(None, (given.program, given.buildkitd, given.buildctl)):
        if not os.access(program, os.X_OK):
            parser.error(f"{program}: no such program")
    if given.runs < 1:
        parser.error("--runs has to be at least 1")
    return given


def programs(given):
    """Debian's docker goes before others: its client still builds without a plugin."""
    paths = "/usr/bin:/usr/sbin:" + os.environ.get("PATH", "")
    docker, dockerd, buildah = (shutil.which(name, path=paths) for name in ("docker", "dockerd", "buildah"))
    resolved = [path.resolve() if path else None for path in (given.program, given.buildkitd, given.buildctl)]
    return peers.Programs(*resolved, docker, dockerd, buildah)


def facts(given, absent, bench):
    """What a result says of where and of what it was measured."""
    versions = {peer.name: peer.version(bench.programs) for peer in bench.peers if peer is not peers.OursWhole}
    if given.buildkitd_version and peers.Buildkitd.name in versions:
        versions[peers.Buildkitd.name] = given.buildkitd_version
    return {
        "measured": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), **machine.commit(TOP), "runs": given.runs,
        "machine": machine.described(bench.work), "client": "buildctl" if given.buildctl else "cofferdam build",
        "versions": versions, "absent": absent, "workloads": bench.workloads.made,
    }


def keep(out, known, text, record, suffix=""):
    """Prints the table and keeps it beside earlier ones."""
    out.mkdir(parents=True, exist_ok=True)
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M")
    name = f"{moment}-{known['commit']}{suffix}"
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.json").write_text(record)
    print(text)


def give_up(number, _frame):
    """Ends the run once, in order: a second signal would leave daemons behind."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    tell("ending what was started")
    sys.exit(128 + number)


@contextlib.contextmanager
def alone(work):
    """Holds the work directory: two runs in one would remove what the other builds in."""
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another measurement is at work there: see --work")
        yield


@contextlib.contextmanager
def opened(given, packages, kinds=peers.ALL):
    """A bench with these kinds of peers, and why some are absent. What was started and mounted is gone at the end."""
    if os.geteuid() != 0:
        sys.exit(f"{Path(sys.argv[0]).name} needs root: dockerd and buildkitd do")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, give_up)
    subprocess.run([TOP / "tests/setup", *packages], check=True)
    subprocess.run([TOP / "tests/images/make", TOP / "target/test-images"], check=True)
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with alone(work):
        logs = work / "logs"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        busybox = TOP / "target/test-images/busybox.tar"
        groups = cleanup.groups()
        tools = programs(given)
        found, absent = peers.found(tools, kinds)
        with tempfile.TemporaryDirectory(prefix="cofferdam-bench-") as sockets, Registry(work / "registry", logs) as registry:
            try:
                workloads = Workloads(work, busybox, logs, tell)
                base = registry.push("busybox", busybox)
                yield Bench(tools, found, workloads, registry, base, work, logs, Path(sockets), itertools.count()), absent
            finally:
                cleanup.remove(work / "peers")
                cleanup.remove_groups(groups)
