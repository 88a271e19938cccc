"""What is judged, and what is tolerated of it."""

from . import verdict
from .verdict import Growth, Same, Series

MIB = 1 << 20
# Medians of quarters of a shorter run say nothing.
LEAST_SECONDS = 30 * 60


def column(name):
    return lambda row: row.get(name)


def each_builder(name):
    """A figure of all builders divided by how many there are; nothing while there is none."""
    return lambda row: row[name] / row["builders"] if row.get("builders") else None


# Under load, what is done at the moment is in every figure: tolerances are what quarters of a run differ by from each other without a
# leak. A leak of one descriptor, mount or megabyte in a hundred builds is above each of them within an hour.
UNDER_LOAD = [
    Series("server: memory it allocated", "bytes", column("server_own"), 0.05, 3 * MIB),
    Series("server: resident memory", "bytes", column("server_rss"), 0.05, 4 * MIB),
    Series("server: proportional memory (PSS)", "bytes", column("server_pss"), 0.10, 4 * MIB),
    # Each builder has some eight of them, and there may be one and a half more.
    Series("server: descriptors", "", column("server_descriptors"), 0.05, 12),
    Series("server: threads", "", column("server_threads"), 0.05, 3),
    Series("server: mounts it sees", "", column("server_mounts"), 0, 0),
    Series("mounts below the data directory", "", column("data_mounts"), 0, 0),
    Series("builders at once", "", column("builders"), 0.15, 1.5),
    Series("a builder: memory it allocated", "bytes", each_builder("builders_own"), 0.10, 2 * MIB),
    Series("a builder: proportional memory (PSS)", "bytes", each_builder("builders_pss"), 0.10, 3 * MIB),
    Series("a builder: descriptors", "", each_builder("builders_descriptors"), 0.10, 8),
    Series("a builder: processes", "", each_builder("builders_processes"), 0.10, 1),
    Series("a builder: threads", "", each_builder("builders_threads"), 0.10, 3),
    Series("a builder: mounts in all its namespaces", "", each_builder("builders_mounts"), 0.10, 8),
    Series("a builder: network namespaces", "", each_builder("builders_networks"), 0.10, 1),
    Series("control groups", "", column("groups"), 0.15, 8),
    Series("zombies", "", column("zombies"), 0, 1),
    Series("disk: caches of all projects", "bytes", column("disk_projects"), 0.10, 64 * MIB),
    Series("disk: being removed", "bytes", column("disk_trash"), 0.10, 64 * MIB),
]

WITHIN_A_LIFE = [
    Series("one builder through its life: memory it allocated", "bytes", column("steady_own"), 0.10, 3 * MIB),
    Series("one builder through its life: descriptors", "", column("steady_descriptors"), 0.10, 6),
    Series("one builder through its life: threads", "", column("steady_threads"), 0.10, 3),
    Series("one builder through its life: mounts", "", column("steady_mounts"), 0.10, 6),
]

BY_DESIGN = [
    Growth("records", "bytes", "build", column("records"), column("builds_ended"), 0.25, 4096),
    Growth("logs of steps", "bytes", "build", column("disk_logs"), column("builds_ended"), 0.25, 4096),
    Growth("image store", "bytes", "saved image", column("disk_registry"), column("saved"), 0.25, 65536),
    Growth("the server's own messages", "bytes", "build", column("server_log"), column("builds_ended"), 0.25, 64),
]

AT_REST = [
    Same("builders", "", "builders"),
    Same("builds that run", "", "builds_running"),
    Same("processes: the server and all below it", "", "processes"),
    Same("zombies", "", "zombies"),
    Same("server: descriptors", "", "server_descriptors"),
    Same("server: threads", "", "server_threads", most=1),
    Same("server: mounts it sees", "", "server_mounts"),
    Same("mounts below the data directory", "", "data_mounts"),
    Same("network namespaces", "", "networks"),
    Same("control groups of builders", "", "groups"),
    Same("disk: being removed", "bytes", "disk_trash"),
]

# What an allocator and a database keep for later fills in the first minutes.
WARM_AT_REST = [
    Same("server: memory it allocated", "bytes", "server_own", most=3 * MIB, share=0.10),
    Same("server: proportional memory (PSS)", "bytes", "server_pss", most=4 * MIB, share=0.10),
    Same("server: resident memory", "bytes", "server_rss", most=5 * MIB, share=0.10),
]


def all_of(sampler, length):
    """Every verdict by part of the summary, and the words for those that are not flat."""
    rows, rests = sampler.under_load(), sampler.at_rest()
    long_enough = length >= LEAST_SECONDS
    found = {
        "load": [verdict.of_series(series, rows, length, long_enough) for series in UNDER_LOAD],
        "life": [verdict.within_lives(series, rows, "steady_supervisor", long_enough) for series in WITHIN_A_LIFE],
        "design": [verdict.of_growth(growth, rows, length, long_enough) for growth in BY_DESIGN],
        "rest": [],
    }
    warm = [row for row in rests if row["seconds"] >= length / 4]
    for same, those in [*((same, rests) for same in AT_REST), *((same, warm) for same in WARM_AT_REST)]:
        first, last, word = verdict.at_rest(same, those) if those else (None, None, verdict.UNKNOWN)
        if same in WARM_AT_REST and not long_enough:
            word = verdict.UNKNOWN
        found["rest"].append((same, first, last, word))
    wrong = [one.series.title for part in ("load", "life", "design") for one in found[part] if one.word == verdict.GROWS]
    wrong += [f"at rest, {same.title}" for same, _, _, word in found["rest"] if word == verdict.GROWS]
    return found, wrong
