"""The rows of the table: what each measures, of whom, and what was promised of it."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .. import cleanup
from ..peers import Peer, Programs
from ..registry import Registry
from ..workloads import Workloads


@dataclass
class Entry:
    """One line of a row: what to run, whose memory to look at meanwhile, and what else there is to say at the end."""

    name: str
    run: Callable[[], float]
    roots: Callable[[], list] | None = None
    remark: str = ""
    floor: bool = False
    more: Callable[[], dict] | None = None


@dataclass
class Row:
    """`opened` makes the entries and holds what they need until it is closed. `budget` is the most that ours may take of buildkitd's."""

    name: str
    title: str
    opened: Callable
    budget: float | None = None
    promise: str = ""


@dataclass
class Bench:
    """What all rows share."""

    programs: Programs
    peers: list
    workloads: Workloads
    registry: Registry
    base: str
    work: Path
    logs: Path
    sockets: Path
    numbers: itertools.count = field(default_factory=itertools.count)

    def make(self, kind, name):
        """A peer with an empty directory, which is not started yet."""
        directory = self.work / "peers" / name
        cleanup.remove(directory)
        return kind(self.programs, directory, self.logs / f"{name}.log", self.sockets / str(next(self.numbers)))

    @contextlib.contextmanager
    def running(self, row, kinds=None):
        """A row's peers, each started in an empty directory; stopped and removed at the end, whatever happens in between."""
        peers: list[Peer] = []
        try:
            for kind in self.peers if kinds is None else kinds:
                peers.append(self.make(kind, f"{row}-{kind.__name__.lower()}"))
                peers[-1].own_copy = True
                peers[-1].start()
            yield peers
        finally:
            self.discard(*peers)

    def discard(self, *peers):
        """Stops all of them, and only then removes what they kept, which takes longer."""
        for peer in peers:
            peer.stop()
        with cleanup.settled(self.work):
            for peer in peers:
                cleanup.remove(peer.directory)

    @contextlib.contextmanager
    def temporary(self):
        """A directory of the work directory's file system."""
        directory = Path(tempfile.mkdtemp(prefix="tmp-", dir=self.work))
        try:
            yield directory
        finally:
            cleanup.remove(directory)
