"""Whether a series of numbers is flat. Nothing here knows where numbers come from.

What is looked for is growth: a series that falls has not leaked. Two things have to agree that there is none, each within the series'
tolerance: the medians of the second and of the last quarter of the run, the first quarter being the warm-up, and a robust slope over
everything after the warm-up, for an hour.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

HOUR = 3600
# The slope is a median over pairs: so many points have as many pairs as one cares to look at.
MOST_POINTS = 600
LEAST_POINTS = 5
FLAT, GROWS, LESS, UNKNOWN = "flat", "GROWS", "less", "not judged"


def theil_sen(points):
    """The median of the slopes between all pairs of points."""
    if len(points) > MOST_POINTS:
        points = points[::-(-len(points) // MOST_POINTS)]
    slopes = [
        (later - earlier) / (end - begin)
        for number, (begin, earlier) in enumerate(points) for end, later in points[number + 1:] if end > begin
    ]
    return statistics.median(slopes) if slopes else 0.0


def quarter(points, number, length):
    """The values of one of the four quarters of a run of this many seconds, the first being number 0."""
    return [value for moment, value in points if number * length / 4 <= moment < (number + 1) * length / 4]


@dataclass
class Series:
    """A series: what it is, how a sample has it, and the most it may grow by, as a share and as a number, of which the larger counts."""

    title: str
    unit: str
    of: Callable
    share: float = 0.05
    least: float = 0.0

    def points(self, rows):
        found = []
        for row in rows:
            value = self.of(row)
            if value is not None:
                found.append((row["seconds"], value))
        return found


@dataclass
class Verdict:
    """What became of a series: medians of the second and the last quarter, growth by the slope in an hour, what was tolerated."""

    series: Series
    before: float | None = None
    after: float | None = None
    hourly: float | None = None
    tolerated: float | None = None
    word: str = UNKNOWN


def of_series(series, rows, length, long_enough):
    """Judges a series by the samples under load of a run of this many seconds."""
    points = [point for point in series.points(rows) if point[0] < length]
    second, last = quarter(points, 1, length), quarter(points, 3, length)
    if min(len(second), len(last)) < LEAST_POINTS:
        return Verdict(series)
    before, after = statistics.median(second), statistics.median(last)
    hourly = theil_sen([point for point in points if point[0] >= length / 4]) * HOUR
    tolerated = max(series.share * abs(before), series.least)
    word = UNKNOWN
    if long_enough:
        word = FLAT if max(after - before, hourly) <= tolerated else GROWS
    return Verdict(series, before, after, hourly, tolerated, word)


@dataclass
class Growth:
    """A series that grows by design, with what it grows with: its growth for each of those is what has to be flat."""

    title: str
    unit: str
    each: str
    of: Callable
    by: Callable
    share: float = 0.25
    least: float = 0.0


def ratio(points):
    """Growth of the value for each further one of what it grows with, between the first and the last of these points."""
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])


def of_growth(growth, rows, length, long_enough):
    """Judges what grows by design."""

    def in_quarter(number):
        within = [row for row in rows if number * length / 4 <= row["seconds"] < (number + 1) * length / 4]
        pairs = [(growth.by(row), growth.of(row)) for row in within]
        return ratio([pair for pair in pairs if None not in pair])

    before, after = in_quarter(1), in_quarter(3)
    verdict = Verdict(growth, before, after)
    if before is not None and after is not None:
        verdict.tolerated = max(growth.share * abs(before), growth.least)
        if long_enough:
            verdict.word = FLAT if after - before <= verdict.tolerated else GROWS
    return verdict


def within_lives(series, rows, life, long_enough, least=240):
    """Judges a series of something that ends and begins again: how much its median is higher in the last third of a life than in the
    middle one, as the median over all lives of at least so many seconds."""
    lives = {}
    for row in rows:
        if row.get(life) is not None and series.of(row) is not None:
            lives.setdefault(row[life], []).append((row["seconds"], series.of(row)))
    pairs = []
    for points in lives.values():
        begin, end = points[0][0], points[-1][0]
        if end - begin >= least:
            third = (end - begin) / 3
            middle = [value for moment, value in points if begin + third <= moment < begin + 2 * third]
            last = [value for moment, value in points if moment >= begin + 2 * third]
            if middle and last:
                pairs.append((statistics.median(middle), statistics.median(last)))
    if not pairs:
        return Verdict(series)
    before = statistics.median(middle for middle, _ in pairs)
    grown = statistics.median(last - middle for middle, last in pairs)
    tolerated = max(series.share * abs(before), series.least)
    word = UNKNOWN
    if long_enough:
        word = FLAT if grown <= tolerated else GROWS
    return Verdict(series, before, before + grown, None, tolerated, word)


@dataclass
class Same:
    """Something that has to be the same whenever nothing runs. `most`: how much more it may be at the end; `share`: the same as a
    share, of which the larger counts."""

    title: str
    unit: str
    name: str
    most: float = 0
    share: float = 0.0


def at_rest(same, rows):
    """The first and the last number, and whether the last is not more than it may be. Less is said, and is no leak."""
    first, last = rows[0].get(same.name), rows[-1].get(same.name)
    if first is None or last is None or len(rows) < 2:
        return first, last, UNKNOWN
    allowed = max(same.most, same.share * first)
    if last - first > allowed:
        return first, last, GROWS
    return first, last, LESS if last < first and not allowed else FLAT
