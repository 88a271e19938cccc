"""What one step costs: a build of 41 steps that do nothing, less one of a single such step, by 40."""

import contextlib

from .. import floors
from ..peers import Job
from . import Entry, Row

MORE = 40


@contextlib.contextmanager
def opened(bench):
    def dockerfile(count):
        return f"FROM {bench.base}\n" + "RUN true\n" * count

    context, one = bench.workloads.context("sandbox-1", dockerfile(1))
    _, many = bench.workloads.context("sandbox-many", dockerfile(1 + MORE))

    def entry(peer):
        def run():
            short = peer.build(Job(context, one))
            return (peer.build(Job(context, many)) - short) / MORE

        return Entry(peer.name, run, peer.roots, peer.remark)

    with bench.running("sandbox-start") as peers, bench.temporary() as directory:
        bare = [Entry(name, run, floor=True) for name, run in floors.of_sandbox(bench.workloads.rootfs(), directory)]
        yield [entry(peer) for peer in peers] + bare


ROWS = [Row("sandbox-start", f"one further step that runs `true` (of {MORE})", opened, promise="5 ms")]
