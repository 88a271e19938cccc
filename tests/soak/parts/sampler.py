"""Looks every few seconds at what the server and its builders hold, and keeps it in `samples.csv`."""

import csv
import subprocess
import threading
import time

from suite import cleanup

from . import looks
from .api import Refused, total

EVERY = 10
# The disk is looked at more rarely: that costs something when there are many files.
DISK_EVERY = 60
# Supervisors that come and go between two looks are seen by these.
GLANCE = 2
DU_PATIENCE = 300
PLACES = ("projects", "registry", "logs", "trash")

COLUMNS = (
    "seconds", "phase", "server_pss", "server_own", "server_rss", "server_descriptors", "server_threads", "server_mounts",
    "data_mounts", "builders", "builders_pss", "builders_own", "builders_descriptors", "builders_processes", "builders_threads",
    "builders_mounts", "builders_mount_namespaces", "builders_networks", "processes", "zombies", "networks", "groups",
    "steady_supervisor", "steady_pss", "steady_own", "steady_descriptors", "steady_threads", "steady_mounts", "disk_data",
    "disk_projects", "disk_registry", "disk_logs", "disk_trash", "records", "server_log", "actions", "saved", "builds_running",
    "builds_ended", "steps", "connections",
)


def disk(data):
    """Bytes on disk of the data directory and of what is directly in it."""
    done = subprocess.run(
        ["du", "-k", "-d1", data], capture_output=True, text=True, check=False, timeout=DU_PATIENCE, stdin=subprocess.DEVNULL)
    found = {}
    for line in done.stdout.splitlines():
        size, _, place = line.partition("\t")
        name = "data" if place == str(data) else place.rpartition("/")[2]
        found[name] = int(size) * 1024
    if not found:
        return {}
    # The directory itself stays as large as it ever had to be.
    found["trash"] = max(0, found.get("trash", 0) - blocks(data / "trash"))
    return {f"disk_{name}": found.get(name, 0) for name in ("data", *PLACES)}


def blocks(path):
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def size(path):
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Sampler:
    """Looks from `with` on. Rows are kept here too: an hour has a few hundred."""

    def __init__(self, scene, watch, events, path, begun):
        self.scene = scene
        self.watch = watch
        self.events = events
        self.begun = begun
        self.phase = "load"
        self.rows = []
        self.troubles = []
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.disk_at = 0.0
        self.file = open(path, "w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, COLUMNS)
        self.writer.writeheader()
        self.thread = threading.Thread(target=self._look_again, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.file.close()

    def _look_again(self):
        while not self.over.is_set():
            begun = time.monotonic()
            try:
                # Work in between starts and ends at rest, which looks for itself.
                if self.phase == "load":
                    self.keep(self.look(begun - self.disk_at >= DISK_EVERY), "load")
            except Exception as wrong:
                self.troubles.append(f"a look failed: {type(wrong).__name__}: {wrong}")
            while time.monotonic() - begun < EVERY and not self.over.wait(GLANCE):
                self.watch.builders(looks.processes())

    def look(self, whole):
        """What there is at this moment; with the disk if that is asked for."""
        data = self.scene.server.data
        with self.lock:
            row = {"seconds": round(time.monotonic() - self.begun, 1)} | self.watch.look()
            row["data_mounts"] = len(cleanup.mounts_below(data))
            row["records"] = sum(size(data / f"records.db{suffix}") for suffix in ("", "-wal", "-shm"))
            row["server_log"] = size(self.scene.server.log)
            row["actions"], row["saved"] = self.events.total(), self.scene.saved
            try:
                known = self.scene.api.figures()
                row["builds_running"] = known.get("cofferdam_builds_running", 0.0)
                row["builds_ended"] = total(known, "cofferdam_builds_ended_total")
                row["steps"] = total(known, "cofferdam_steps_total")
                row["connections"] = total(known, "cofferdam_builder_connections_total")
            except Refused as refused:
                self.troubles.append(f"the server does not say its figures: {refused}")
            if whole:
                self.disk_at = time.monotonic()
                row |= disk(data)
        return row

    def keep(self, row, phase):
        # What was looked at while the phase changed belongs to neither.
        if phase == "load" and self.phase != "load":
            return
        with self.lock:
            row = row | {"phase": phase}
            self.rows.append(row)
            self.writer.writerow(row)
            self.file.flush()

    def under_load(self):
        return [row for row in self.rows if row["phase"] == "load"]

    def at_rest(self):
        return [row for row in self.rows if row["phase"] == "rest"]
