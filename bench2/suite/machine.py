"""What a result has to say about where it was measured: never a host's name, never a path."""

import os
import platform
import subprocess
from pathlib import Path


def field_of(file, name):
    """The value of the first line of a file of `name: value` lines."""
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def filesystem(directory):
    """The type of the file system that a directory is on."""
    found = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        place = before.split()[4]
        if (str(directory) + "/").startswith(place.rstrip("/") + "/") and len(place) >= len(found[0]):
            found = (place, after.split()[0])
    return found[1]


def described(directory):
    """The machine, as a result names it."""
    kilobytes = int(field_of("/proc/meminfo", "MemTotal").split()[0])
    return {
        "cpu": field_of("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(kilobytes / 1024 / 1024, 1),
        "kernel": platform.release(),
        "filesystem": filesystem(directory),
    }


def git(top, *arguments):
    """What git says about the checkout, or nothing outside of one."""
    done = subprocess.run(["git", "-C", top, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def commit(top):
    """The commit of the checkout, and whether it has changes of its own besides results."""
    changed = git(top, "status", "--porcelain", "--untracked-files=no")
    return {"commit": git(top, "rev-parse", "--short=12", "HEAD") or "unknown", "changed": bool(changed)}
