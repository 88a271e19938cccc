"""What is measured of one row of `bench/growth`: sizes one after another, builders in turn at each, until one of them is over the bound."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ..measure import Peak, Series
from ..processes import Failed, Late


@dataclass
class Row:
    """`material` makes what is built at a size, `case` is how it is built, and `units` of a size are what its time is divided by."""

    name: str
    title: str
    unit: str
    material: Callable
    case: type
    sizes: list
    full: list = field(default_factory=list)
    quick: list = field(default_factory=list)
    units: Callable[[int], int] = lambda size: size

    def chosen(self, given):
        if given.sizes:
            return given.sizes
        return self.quick if given.quick else self.sizes + (self.full if given.full else [])


@dataclass
class Size:
    """What was measured of a builder at one size."""

    size: int
    units: int
    series: Series

    @property
    def each(self):
        return self.series.median / self.units

    def recorded(self):
        measured = self.series.recorded()
        kept = {name: measured[name] for name in ("seconds", "median", "least", "most", "peak_memory")}
        return {"size": self.size, "units": self.units, "each": self.each, **kept, **self.series.more}


@dataclass
class Line:
    """A builder's sizes in one row, and why there are no more of them."""

    name: str
    sizes: list = field(default_factory=list)
    ended: int | None = None
    why: str = ""
    failed: bool = False

    # The most that a unit may cost at the largest size, in costs of one at the second.
    FLAT = 1.5

    @property
    def factor(self):
        """What a unit costs at the largest size, in costs of one at the second; nothing without a size above the second."""
        return self.sizes[-1].each / self.sizes[1].each if len(self.sizes) > 2 else None

    def recorded(self):
        factor = self.factor
        verdict = None if factor is None else {
            "from": self.sizes[1].size, "to": self.sizes[-1].size, "factor": factor, "flat": factor <= self.FLAT}
        ended = {"size": self.ended, "why": self.why, "failed": self.failed} if self.ended else None
        return {"sizes": [size.recorded() for size in self.sizes], "verdict": verdict, "ended": ended}


class Attempts:
    """Builders that are still in a row; whichever fails or is late is out of it, and the others go on."""

    def __init__(self, kinds, bound, tell):
        self.lines = {kind: Line(kind.name) for kind in kinds}
        self.bound = bound
        self.tell = tell

    def going(self):
        return [kind for kind, line in self.lines.items() if not line.ended]

    @contextlib.contextmanager
    def one(self, case, what):
        """Does one thing of a builder. What goes wrong ends its line, and the builder, which would go on beside the others."""
        line = self.lines[case.kind]
        try:
            yield
        except Exception as failure:
            line.ended, line.failed = case.size, not isinstance(failure, Late)
            line.why = f"{what}: {failure if isinstance(failure, Failed) else type(failure).__name__}"
            self.tell(f"{'FAILED ' if line.failed else ''}{line.name}, {case.size:,}: {what}: {failure!r}\n{getattr(failure, 'last', '')}")
            case.close()


def at_size(bench, row, size, attempts, runs):
    """All builders that still are in the row at one size: each once to warm it up, then in turn, then for memory."""
    tell = attempts.tell
    with row.material(bench, size) as material, contextlib.ExitStack() as stack:
        cases, series = {}, {}
        for kind in attempts.going():
            cases[kind] = stack.enter_context(contextlib.closing(row.case(bench, row, kind, size, material, attempts.bound)))
            series[kind] = Series(kind.name, False, kind.remark)
            with attempts.one(cases[kind], "what is done before the runs"):
                cases[kind].open()
        for kind in attempts.going():
            with attempts.one(cases[kind], "the warm-up"):
                cases[kind].run()
        for number in range(runs):
            going = attempts.going()
            first = number % len(going) if going else 0
            for kind in going[first:] + going[:first]:
                # What one has written is not to be paid for by the next.
                os.sync()
                with attempts.one(cases[kind], "a run"):
                    series[kind].values.append(cases[kind].run())
                    tell(f"{kind.name}, {size:,}: {series[kind].values[-1]:.4f} s")
        for kind in attempts.going():
            with attempts.one(cases[kind], "the run for memory"):
                with Peak(cases[kind].roots) as peak:
                    cases[kind].run()
                series[kind].peak = peak.bytes
                series[kind].more = cases[kind].more()
        for kind in attempts.going():
            attempts.lines[kind].sizes.append(Size(size, row.units(size), series[kind]))


def measured(bench, row, kinds, sizes, runs, bound, tell):
    """A line for each kind of builder."""
    attempts = Attempts(kinds, bound, tell)
    for size in sizes:
        if attempts.going():
            tell(f"== {row.name}, {size:,}")
            at_size(bench, row, size, attempts, runs)
    return list(attempts.lines.values())
