"""Rows that are one build of something, by each peer with its own client."""

import contextlib

from .. import floors
from ..peers import Job
from ..workloads import STAGES, STEPS, stages, steps
from . import Entry, Row


def entry(peer, job, before=None):
    """A build by a peer; `before` is done ahead of each one and not timed."""

    def run():
        if before:
            before()
        return peer.build(job)

    remarks = [peer.remark, peer.oci_remark if job.oci else ""]
    return Entry(peer.name, run, peer.roots, "; ".join(filter(None, remarks)))


def floor(pair):
    name, run = pair
    return Entry(name, run, floor=True)


def simple(name, dockerfile, no_cache):
    """A row of a small context that nothing is exported of."""

    @contextlib.contextmanager
    def opened(bench):
        context, file = bench.workloads.context(name, dockerfile(bench.base))
        with bench.running(name) as peers:
            yield [entry(peer, Job(context, file, no_cache)) for peer in peers]

    return opened


def node(name, no_cache, exported, changing):
    """A row of the Node project, which is built with all its files in one layer."""

    @contextlib.contextmanager
    def opened(bench):
        context = bench.workloads.node()
        file = bench.workloads.dockerfile(name, f"FROM {bench.base}\nCOPY . /app\n")

        def change():
            bench.workloads.change(next(bench.numbers))

        with bench.running(name) as peers:
            entries = []
            for peer in peers:
                oci = peer.directory / "image.tar" if exported else None
                entries.append(entry(peer, Job(context, file, no_cache, oci), change if changing else None))
            if exported and no_cache:
                entries += map(floor, floors.of_tree(context, bench.logs / "floors.log"))
            yield entries

    return opened


@contextlib.contextmanager
def debian(bench):
    """A root file system as one layer and a step on it, exported."""
    tar = bench.workloads.debian()
    file = bench.workloads.dockerfile("debian-oci", f"FROM scratch\nADD {tar.name} /\nRUN echo made > /etc/made\n")
    with bench.running("debian-oci") as peers:
        entries = [entry(peer, Job(tar.parent, file, True, peer.directory / "image.tar")) for peer in peers]
        yield entries + [floor(pair) for pair in floors.of_archive(tar, bench.logs / "floors.log")]


ROWS = [
    Row("trivial-7", f"Dockerfile of {STEPS} trivial steps, no cache", simple("trivial-7", steps, True), 1 / 4, "1/4 of buildkitd"),
    Row("trivial-7-cached", "the same, all of it cached", simple("trivial-7-cached", steps, False), 1 / 4, "1/4 of buildkitd"),
    Row("node-oci", "COPY of {node files} files of node_modules, no cache, exported as OCI tar", node("node-oci", True, True, False),
        1 / 4, "1/4 of buildkitd"),
    Row("node-one-changed", "the same with cache, one file changed", node("node-one-changed", False, True, True), 1 / 10,
        "1/10 of buildkitd"),
    Row("node-unchanged", "the same, nothing changed, no output", node("node-unchanged", False, False, False), 1 / 5,
        "1/5 of buildkitd"),
    Row("debian-oci", "Debian of {debian megabytes} MB added from a tar, one step, no cache, exported as OCI tar", debian),
    Row("stages-12", f"Dockerfile of {STAGES} stages, ten of them side by side, no cache", simple("stages-12", stages, True)),
]
