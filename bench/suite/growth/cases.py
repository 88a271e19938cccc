"""How a builder builds what a row has for it. Each size has a builder of its own, in an empty directory."""

import time

from .. import grpc
from ..peers import Job
from ..processes import Failed, Late
from ..rows.many import at_once

# What is made before the runs of a size may take this many times as long as one of them.
BEFORE = 10
# Steps of one of the builds that fill a cache. Each makes a directory in the root, which costs our builder least.
CHUNK = 100


class Case:
    """One builder at one size; a run is a build."""

    def __init__(self, bench, row, kind, size, material, bound):
        self.bench = bench
        self.kind = kind
        self.size = size
        self.material = material
        self.bound = bound
        self.name = f"growth-{row.name}-{kind.__name__.lower()}"
        self.peer = None

    def start(self):
        self.peer = self.bench.make(self.kind, self.name)
        self.peer.patience = self.bound
        # The client may be the same program, whose pages would count half for each.
        self.peer.own_copy = not self.bench.programs.buildctl
        self.peer.start()

    def open(self):
        self.start()

    def run(self):
        return self.peer.build(self.material.job)

    def roots(self):
        # Looked at by another thread, while this one starts and stops builders.
        daemon = self.peer and self.peer.daemon
        return [daemon.pid] if daemon else []

    def more(self):
        return {}

    def close(self):
        if self.peer:
            self.bench.discard(self.peer)
            self.peer = None


class Empty(Case):
    """Each run has a builder that has seen nothing yet; starting it is not timed."""

    def open(self):
        pass

    def run(self):
        self.close()
        self.start()
        return super().run()


class Changed(Case):
    """The last step is another one in each run, and everything below it is cached."""

    def run(self):
        self.material.change(next(self.bench.numbers))
        return super().run()


class Together(Case):
    """All jobs at once, in one builder."""

    def run(self):
        return at_once([(self.peer, job) for job in self.material.jobs], self.bound)


class Filled(Case):
    """A builder whose cache has as many records as the size says, and which was started again since it got them."""

    def open(self):
        super().open()
        deadline = time.monotonic() + BEFORE * self.bound
        with self.bench.temporary() as directory:
            job = Job(directory, directory / "Dockerfile", no_cache=False)
            for first in range(0, self.size, CHUNK):
                steps = [f"WORKDIR /$N-{number}" for number in range(min(CHUNK, self.size - first))]
                job.dockerfile.write_text("\n".join([f"FROM {self.bench.base}", f"ARG N={first}", *steps, ""]))
                self.peer.patience = deadline - time.monotonic()
                try:
                    self.peer.build(job)
                except Late as late:
                    late.seconds = BEFORE * self.bound
                    raise
        self.peer.patience = self.bound
        self.peer.stop()
        self.peer.start()

    def more(self):
        try:
            count = grpc.records(self.peer.socket, self.bound)
        except OSError as failure:
            raise Failed("it does not say how many records it has", self.peer.log) from failure
        if count < self.size:
            raise Failed(f"of {self.size} records it kept {count}")
        return {"records": count}
