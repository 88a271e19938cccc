"""The rows of `bench/growth`, and what they build."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from ..peers import Job
from ..workloads import STEPS, steps
from . import Row
from .cases import Case, Changed, Empty, Filled, Together

FILES_EACH = 1000
TOGETHER = 3


@dataclass
class Material:
    """What is built: jobs, mostly one, and what is done ahead of a run of builds that change."""

    jobs: list
    change: Callable[[int], None] | None = None

    @property
    def job(self):
        return self.jobs[0]


def placed(directory, text, no_cache=True, name="context"):
    """A job with an empty context, unless that is there already, and this Dockerfile."""
    context = directory / name
    context.mkdir(exist_ok=True)
    dockerfile = directory / f"Dockerfile.{name}"
    dockerfile.write_text(text)
    return Job(context, dockerfile, no_cache)


def tiny(directory, count):
    """A context of tiny files, no two of them alike, a thousand in each directory."""
    context = directory / "context"
    for number in range(count):
        place = context / str(number // FILES_EACH)
        if number % FILES_EACH == 0:
            place.mkdir(parents=True)
        (place / str(number)).write_bytes(b"%d\n" % number)


def copies(count, flags=""):
    """Steps that copy one of these files each."""
    return [f"COPY {flags}{number // FILES_EACH}/{number} /{number}" for number in range(count)]


def chain(step):
    """A Dockerfile of as many steps as the size says, nothing of it cached."""

    @contextlib.contextmanager
    def material(bench, size):
        with bench.temporary() as directory:
            lines = [f"FROM {bench.base}", *[step.format(number) for number in range(size)], ""]
            yield Material([placed(directory, "\n".join(lines))])

    return material


@contextlib.contextmanager
def copied(bench, size):
    """The same of a COPY for each file, out of a stage: the context's paths are a header of its transfer, which has no room for 500."""
    with bench.temporary() as directory:
        tiny(directory, size)
        lines = ["FROM scratch AS files", "COPY . /", f"FROM {bench.base}", *copies(size, "--from=files "), ""]
        yield Material([placed(directory, "\n".join(lines))])


def files(no_cache):
    @contextlib.contextmanager
    def material(bench, size):
        with bench.temporary() as directory:
            tiny(directory, size)
            yield Material([placed(directory, "FROM scratch\nCOPY . /\n", no_cache)])

    return material


@contextlib.contextmanager
def layers(bench, size):
    """The base image's layer and those of steps above it, and on top a step that is never the same."""
    with bench.temporary() as directory:
        tiny(directory, size - 1)
        # Out of a stage, as in `copied`.
        stage = ["FROM scratch AS files", "COPY . /"]
        below = "\n".join([*stage, f"FROM {bench.base}", *copies(size - 1, "--from=files "), ""])
        job = placed(directory, below, no_cache=False)
        yield Material([job], lambda number: job.dockerfile.write_text(f"{below}RUN true # {number}\n"))


@contextlib.contextmanager
def together(bench, size):
    """Builds that have nothing in common but the base image."""
    with bench.temporary() as directory:
        jobs = []
        for number in range(size):
            text = steps(bench.base, TOGETHER).replace("/app", f"/app{number}")
            jobs.append(placed(directory, text, name=str(number)))
            (jobs[-1].context / "greeting.txt").write_text(f"hello {number}\n")
        yield Material(jobs)


@contextlib.contextmanager
def cached(bench, _size):
    with bench.temporary() as directory:
        job = placed(directory, steps(bench.base), no_cache=False)
        (job.context / "greeting.txt").write_text("hello\n")
        yield Material([job])


ROWS = [
    Row("steps-env", "steps `ENV` of one variable, none of which makes a layer, no cache", "step", chain("ENV NAME={0}"), Case,
        [10, 100, 1_000], [10_000], [2, 4, 8]),
    Row("steps-copy", "steps `COPY`, each of a tiny file of its own, no cache", "step", copied, Case,
        [10, 100, 1_000], [10_000], [2, 4, 8]),
    Row("steps-run", "steps `RUN true`, no cache", "step", chain("RUN true"), Case,
        [1, 10, 100], [900], [1, 2, 4]),
    Row("files", "tiny files of a context, copied by a builder that has not seen them yet", "file", files(True), Empty,
        [1_000, 10_000, 100_000], [1_000_000], [10, 20, 40]),
    Row("files-again", "the same with cache, nothing changed", "file", files(False), Case,
        [1_000, 10_000, 100_000], [1_000_000], [10, 20, 40]),
    Row("layers", "layers below a step `RUN true` that is not cached, as they are", "layer", layers, Changed,
        [1, 10, 100, 500], [], [1, 2, 4]),
    Row("concurrent", f"builds of {TOGETHER} steps at once in one builder, no cache", "build", together, Together,
        [1, 4, 16, 64], [], [1, 2, 4]),
    Row("records", f"records in the cache, and then a build of {STEPS} steps that is all cached", "build", cached, Filled,
        [100, 1_000, 10_000], [100_000, 1_000_000], [10, 20, 40], units=lambda _size: 1),
]
