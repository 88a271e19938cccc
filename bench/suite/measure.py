"""Numbers: medians, spread, and the most memory that a tree of processes takes.

Memory is read in a run of its own, never in one that is timed: reading it costs the process that is looked at.
"""

import contextlib
import os
import statistics
import threading
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .table import OURS

INTERVAL = 0.05


def proportional(pid):
    """Bytes of a process, shared pages counted in parts; nothing once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def memory_of(roots):
    """Bytes that these processes and all below them take at this moment."""
    return sum(proportional(pid) for pid in processes.tree(roots))


class Peak:
    """The most memory seen while a block runs, looked at every 50 ms."""

    def __init__(self, roots):
        self.roots = roots
        self.bytes = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self.over.is_set():
            self.bytes = max(self.bytes, memory_of(self.roots()))
            self.over.wait(INTERVAL)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


@dataclass
class Series:
    """What was measured of one entry of a row."""

    name: str
    floor: bool
    remark: str
    values: list = field(default_factory=list)
    peak: int = 0
    more: dict = field(default_factory=dict)
    # Why there are no figures: what it said when it failed.
    failed: str = ""

    @property
    def median(self):
        return statistics.median(self.values)

    def recorded(self):
        known = {"name": self.name, "floor": self.floor, "remark": self.remark}
        if self.failed:
            return {**known, "failed": self.failed}
        return {
            **known, "seconds": self.values, "median": self.median,
            "least": min(self.values), "most": max(self.values), "peak_memory": self.peak or None, **self.more,
        }


def order(count, number):
    """In which order so many entries take their turn in this round. Over the rounds each follows every other one as often: what one
    leaves in the machine's memory, or pushes out of it, is not always the same one's to find."""
    inwards = [place // 2 if place % 2 == 0 else count - 1 - place // 2 for place in range(count)]
    shift, backwards = (number, False) if count % 2 == 0 else (number // 2, number % 2 == 1)
    turns = [(place + shift) % count for place in inwards]
    return turns[::-1] if backwards else turns


@contextlib.contextmanager
def others_may_fail(kept, tell):
    """Another builder that fails is out of its row, and says why; when ours does, there is nothing to compare."""
    try:
        yield
    except processes.Failed as failure:
        if kept.name.startswith(OURS):
            raise
        kept.failed = str(failure)
        tell(f"{kept.name} is out of this row: {failure!r}\n{failure.last}")


def in_turn(entries, runs, tell):
    """Runs each entry once to warm it up, then all of them `runs` times in changing order, then once more for memory."""
    series = [Series(entry.name, entry.floor, entry.remark) for entry in entries]
    pairs = list(zip(entries, series, strict=True))
    for entry, kept in pairs:
        tell(f"{entry.name}: warm-up")
        with others_may_fail(kept, tell):
            entry.run()
    for number in range(runs):
        for entry, kept in (pairs[place] for place in order(len(pairs), number)):
            if kept.failed:
                continue
            # What one has written is not to be paid for by the next.
            os.sync()
            with others_may_fail(kept, tell):
                kept.values.append(entry.run())
                tell(f"{entry.name}: {kept.values[-1]:.4f} s")
    for entry, kept in pairs:
        if kept.failed:
            continue
        with others_may_fail(kept, tell):
            if entry.roots:
                with Peak(entry.roots) as peak:
                    entry.run()
                kept.peak = peak.bytes
            if entry.more:
                kept.more = entry.more()
    return series
