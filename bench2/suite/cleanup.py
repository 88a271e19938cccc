"""Takes away what builders leave behind: mounts below a directory, the directory, control groups that were not there before.

Touches only what is below the directory given, and control groups by the names peers give theirs.
"""

import contextlib
import os
import subprocess
import time
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
# Parents that dockerd and buildkitd make and keep.
NAMES = ("docker", "buildkit")
# Deleted files that would be noticed, and seconds until they are forgotten.
MANY_FILES = 10_000
RECENT = 65


def mounts_below(directory):
    """Mount points below a directory, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    return sorted((point for point in points if Path(directory) in Path(point).parents), key=len, reverse=True)


def remove(directory):
    """Removes a directory with all that is mounted in it; mounts are taken away first and never deleted through."""
    directory = Path(directory).resolve()
    for point in mounts_below(directory):
        subprocess.run(["umount", "-l", point], check=False, capture_output=True)
    if mounts_below(directory):
        raise RuntimeError("something is still mounted in the benchmark's directory")
    # Hundreds of thousands of files at times, for which this takes half as long as doing it here.
    subprocess.run(["rm", "-rf", "--one-file-system", directory], check=False, capture_output=True)


@contextlib.contextmanager
def settled(directory):
    """Waits after a block that deleted many files. ext4 gives no inode number out again for a minute, and looks at each such number for
    every file that is made meanwhile: the next row would pay for that, whoever of its peers makes files first the most."""
    before = os.statvfs(directory).f_ffree
    yield
    if os.statvfs(directory).f_ffree - before > MANY_FILES:
        # The minute begins when the file system has written down that they are gone.
        os.sync()
        time.sleep(RECENT)


def groups():
    """Control groups by the peers' names, in every hierarchy."""
    roots = [GROUPS, *(entry for entry in GROUPS.glob("*") if entry.is_dir() and not entry.is_symlink())]
    return {root / name for root in roots for name in NAMES if (root / name).is_dir()}


def remove_groups(before):
    """Removes the control groups that have come since, where nothing runs in them."""
    for group in groups() - before:
        for place in sorted([group, *(path for path in group.rglob("*") if path.is_dir())], reverse=True):
            try:
                place.rmdir()
            except OSError:
                pass
