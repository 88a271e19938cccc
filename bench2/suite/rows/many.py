"""32 builders on one machine, each with a small project of its own, all building at once."""

import contextlib
import time

from ..measure import memory_of
from ..peers import Job
from ..processes import PATIENCE, Late
from ..workloads import STEPS, steps
from . import Entry, Row

MANY = 32
SETTLE = 2


def contexts(bench):
    """A small project for each builder, no two of them alike."""
    made = []
    for number in range(MANY):
        context, file = bench.workloads.context(f"many-{number}", steps(bench.base))
        (context / "greeting.txt").write_text(f"hello {number}\n")
        made.append(Job(context, file))
    return made


def memory_each(builders):
    """Bytes that one of these builders takes in the mean."""
    return memory_of([pid for builder in builders for pid in builder.roots()]) // len(builders)


def at_once(pairs, patience=PATIENCE):
    """Seconds from starting the first of these builds, each of a builder and a job, to the end of the last."""
    clients = []
    begun = time.monotonic()
    try:
        for builder, job in pairs:
            clients.append(builder.client(job))
        for client in clients:
            client.wait(begun + patience - time.monotonic())
        return time.monotonic() - begun
    except Late as late:
        late.seconds = patience
        raise
    finally:
        for client in clients:
            client.end()


def entry(kind, builders, jobs):
    """All builds at once, each by its own builder."""

    def run():
        return at_once(zip(builders, jobs, strict=True))

    def roots():
        return [pid for builder in builders for pid in builder.roots()] if builders[0].daemon else builders[0].roots()

    idle = memory_each(builders) if builders[0].daemon else 0

    def more():
        time.sleep(SETTLE)
        return {"builders": MANY, "idle_memory": idle, "after_memory": memory_each(builders) if builders[0].daemon else 0}

    return Entry(kind.name, run, roots, kind.remark, more=more)


@contextlib.contextmanager
def opened(bench):
    jobs = contexts(bench)
    # dockerd brings a containerd each and is not made to run more than once on a machine.
    kinds = [kind for kind in bench.peers if kind.__name__ in ("Ours", "Buildkitd", "Buildah")]
    builders = {kind: [] for kind in kinds}
    try:
        for kind in kinds:
            for number in range(MANY):
                builders[kind].append(bench.make(kind, f"many-{kind.__name__.lower()}-{number}"))
                builders[kind][-1].start()
        time.sleep(SETTLE)
        yield [entry(kind, builders[kind], jobs) for kind in kinds]
    finally:
        bench.discard(*[builder for kind in kinds for builder in builders[kind]])


ROWS = [
    Row("many-32", f"{MANY} builders at once, the {STEPS}-step build in each, no cache", opened, 1 / 4,
        "4 times buildkitd's builds per minute, half its memory"),
]
