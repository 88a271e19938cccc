"""Times at rest: the load stands still until no build and no builder is left, and then what the server holds has to be the same."""

import time

from . import looks
from .scene import running_builds

# A build whose client was killed ends after half a minute, and a builder that does not end by itself is killed after another.
PATIENCE = 150
# Threads that did something a moment ago are kept for ten seconds.
SETTLE = 13
SETTLED = 60
PAUSE = 3
EXACT = (
    "server_descriptors", "server_mounts", "data_mounts", "processes", "zombies", "networks", "groups", "server_threads", "disk_trash")


def busy(scene, watch):
    """What still goes on, in words."""
    reasons = []
    if builds := running_builds(scene.api):
        reasons.append(f"{builds:.0f} builds run")
    if builds is None:
        reasons.append("the server does not answer")
    if builders := watch.builders(looks.processes()):
        reasons.append(f"{len(builders)} builders run")
    trash = scene.server.data / "trash"
    if trash.is_dir() and any(trash.iterdir()):
        reasons.append("something is being removed")
    return reasons


def reach(scene, watch, tell, patience):
    """Waits until nothing goes on; what still does after a while is a trouble."""
    end = time.monotonic() + patience
    while reasons := busy(scene, watch):
        if time.monotonic() > end:
            return [f"not at rest after {patience:.0f} s without load: {', '.join(reasons)}"]
        time.sleep(0.5)
    tell("at rest")
    return []


def settled(sampler):
    """A look that is the same as the one before it, in what has to be the same."""
    time.sleep(SETTLE)
    end = time.monotonic() + SETTLED
    row = sampler.look(True)
    while time.monotonic() < end:
        time.sleep(PAUSE)
        before, row = row, sampler.look(True)
        if all(before.get(name) == row.get(name) for name in EXACT):
            break
    return row


def rest(scene, watch, load, sampler, tell, go_on=True):
    """Holds the load, looks, and lets it go on. Says what was wrong."""
    sampler.phase = "rest"
    troubles = []
    if not load.gate.close():
        troubles.append("an action does not end")
    troubles += reach(scene, watch, tell, scene.idle + PATIENCE)
    row = settled(sampler)
    sampler.keep(row, "rest")
    if go_on:
        load.gate.reopen()
        sampler.phase = "load"
    return troubles
