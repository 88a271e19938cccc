"""What a server and its builders hold at a moment, read from the kernel. Nothing is asked of them, and nothing is changed."""

import os
from dataclasses import dataclass, field
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
# What builders' control groups are below, in every hierarchy.
FAMILY = "cofferdam"
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Process:
    """A process, as its `stat` describes it."""

    pid: int
    parent: int
    state: str
    threads: int
    begun: int


def described(pid, text):
    """A process by the text of its `stat`; the program's name in there may hold anything."""
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[1]), fields[0], int(fields[17]), int(fields[19]))


def processes():
    """Every process there is, by number."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = described(int(entry.name), Path(entry.path, "stat").read_text(errors="replace"))
            except OSError:
                pass
    return found


def below(known, root):
    """A process and all below it."""
    children = {}
    for process in known.values():
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], [known[root]] if root in known else []
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1].pid, [])
    return found


def memory(pid):
    """Bytes of a process, shared pages counted in parts, and how many of them are of no file: what it allocated itself. Pages of the
    program are shared by a server and its builders, so that the first number of one changes with how many others there are."""
    found = {}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Pss", "Pss_Anon"):
                found[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return found.get("Pss", 0), found.get("Pss_Anon", 0)


def resident(pid):
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def mounts(pid):
    """Mounts in the namespace of a process."""
    try:
        return Path(f"/proc/{pid}/mountinfo").read_bytes().count(b"\n")
    except OSError:
        return 0


def namespace(pid, kind):
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return None


def words(pid):
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def is_builder(process):
    """Whether this child of a server supervises a builder. One that has ended and was not asked for yet has no command line."""
    return process.state != "Z" and words(process.pid)[1:2] == ["builder"]


@dataclass
class Holding:
    """What some processes hold together."""

    processes: int = 0
    threads: int = 0
    memory: int = 0
    own: int = 0
    descriptors: int = 0
    mounts: int = 0
    mount_namespaces: set = field(default_factory=set)
    networks: set = field(default_factory=set)

    @classmethod
    def of(cls, members):
        held = cls()
        for process in members:
            if process.state == "Z":
                continue
            held.processes += 1
            held.threads += process.threads
            whole, own = memory(process.pid)
            held.memory += whole
            held.own += own
            held.descriptors += descriptors(process.pid)
            held.networks.add(namespace(process.pid, "net"))
            place = namespace(process.pid, "mnt")
            if place and place not in held.mount_namespaces:
                held.mount_namespaces.add(place)
                held.mounts += mounts(process.pid)
        held.networks.discard(None)
        return held


def supervisor_of(name):
    """The number and the start of the supervisor whose group has this name, which ends in `-<number>.<start>`."""
    number, _, start = name.rpartition("-")[2].partition(".")
    return (int(number), int(start)) if number.isdigit() and start.isdigit() else None


def groups(supervisors, top=GROUPS):
    """Control groups, with all below them, of these supervisors, each given by number and start."""
    found = []
    for place, names, _ in os.walk(top):
        if os.path.basename(place) == FAMILY:
            for name in names:
                if supervisor_of(name) in supervisors:
                    found += [inner for inner, _, _ in os.walk(os.path.join(place, name))]
            names.clear()
    return found


class Watch:
    """Looks at a server again and again, and remembers which supervisors of builders it had."""

    def __init__(self, server, steady=""):
        self.server = server
        self.steady = steady
        self.supervisors = set()

    def builders(self, known):
        """Each builder's processes, its supervisor first."""
        children = [process for process in known.values() if process.parent == self.server and is_builder(process)]
        self.supervisors |= {(process.pid, process.begun) for process in children}
        return [below(known, process.pid) for process in children]

    def look(self):
        """Numbers by name, as they are in `samples.csv`."""
        known = processes()
        everything = below(known, self.server)
        builders = self.builders(known)
        held = Holding.of(process for builder in builders for process in builder)
        whole = {namespace(process.pid, "net") for process in everything} - {None}
        pss, own = memory(self.server)
        row = {
            "server_pss": pss, "server_own": own, "server_rss": resident(self.server),
            "server_descriptors": descriptors(self.server), "server_threads": known[self.server].threads if self.server in known else 0,
            "server_mounts": mounts(self.server), "processes": sum(process.state != "Z" for process in everything),
            "zombies": sum(process.state == "Z" for process in everything), "networks": len(whole),
            "groups": len(groups(self.supervisors)), "builders": len(builders),
            "builders_pss": held.memory, "builders_own": held.own, "builders_descriptors": held.descriptors,
            "builders_processes": held.processes, "builders_threads": held.threads, "builders_mounts": held.mounts,
            "builders_mount_namespaces": len(held.mount_namespaces), "builders_networks": len(held.networks),
        }
        return row | self.look_at_steady(builders)

    def look_at_steady(self, builders):
        """The builder of the project that is never left alone: what grows within one builder's life is seen here."""
        for builder in builders:
            if self.steady and any(f"/{self.steady}/" in word for word in words(builder[0].pid)):
                held = Holding.of(builder)
                return {
                    "steady_pss": held.memory, "steady_own": held.own, "steady_descriptors": held.descriptors,
                    "steady_threads": held.threads, "steady_mounts": held.mounts, "steady_supervisor": builder[0].pid,
                }
        return {}
