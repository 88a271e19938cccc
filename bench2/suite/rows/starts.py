"""From starting a builder until it has answered which workers it has; asked without a client program."""

import contextlib

from ..measure import memory_of
from ..peers import Job
from ..workloads import steps
from . import Entry, Row


def entry(bench, kind, name, kept):
    """Starts and stops a builder; with `kept`, always the same one with something built in it."""

    def run():
        peer = kept or bench.make(kind, name)
        try:
            peer.start()
            idle["idle_memory"] = memory_of(peer.roots())
            return peer.started
        finally:
            peer.stop()
            if not kept:
                bench.discard(peer)

    idle = {}
    remark = "answers `/_ping`" if kind.__name__ == "Docker" else ""
    return Entry(kind.name, run, remark=remark, more=lambda: idle)


def starting(bench):
    """Peers with a daemon; ours once, whatever client it is asked with."""
    return [kind for kind in bench.peers if kind.__name__ in ("Ours", "Buildkitd", "Docker")]


@contextlib.contextmanager
def empty(bench):
    yield [entry(bench, kind, f"builder-start-{kind.__name__.lower()}", None) for kind in starting(bench)]


@contextlib.contextmanager
def used(bench):
    context, file = bench.workloads.context("builder-restart", steps(bench.base))
    with bench.running("builder-restart", starting(bench)) as peers:
        for peer in peers:
            peer.build(Job(context, file))
            peer.stop()
        yield [entry(bench, type(peer), "", peer) for peer in peers]


ROWS = [
    Row("builder-start", "builder start to its first answer, nothing in its directory", empty, 1 / 4, "1/4 of buildkitd"),
    Row("builder-restart", "the same, with a build in its directory", used, 1 / 4, "1/4 of buildkitd"),
]
