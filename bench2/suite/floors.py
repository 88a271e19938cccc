"""What the machine can do without a builder: the least that work like a builder's costs here."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from .processes import run

MANY = 50


def pipe(text, log, *arguments):
    """Seconds of a pipe of ordinary programs; any of them failing fails it."""
    return run(["bash", "-o", "pipefail", "-c", text, "bench", *arguments], log)


def of_tree(directory, log):
    """Packing, hashing and compressing a directory's files: name and what to run."""
    packed = 'tar --sort=name --numeric-owner -C "$1" -cf - . | '
    yield "tar, sha256", lambda: pipe(packed + "sha256sum", log, directory)
    yield "tar, gzip -6, sha256", lambda: pipe(packed + "gzip -6 | sha256sum", log, directory)
    if shutil.which("pigz"):
        yield "tar, pigz -6, sha256", lambda: pipe(packed + "pigz -6 | sha256sum", log, directory)


def of_archive(tar, log):
    """Unpacking, hashing and compressing what is a tar already."""
    yield "sha256", lambda: pipe('sha256sum < "$1"', log, tar)
    yield "gzip -6, sha256", lambda: pipe('gzip -6 < "$1" | sha256sum', log, tar)
    if shutil.which("pigz"):
        yield "pigz -6, sha256", lambda: pipe('pigz -6 < "$1" | sha256sum', log, tar)


def each(command):
    """Seconds that one of many runs of a command takes, one after another, with nothing in between."""
    program, *_ = command = [str(word) for word in command]
    quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    begun = time.monotonic()
    for _ in range(MANY):
        _, status = os.waitpid(os.posix_spawn(program, command, os.environ, file_actions=quiet), 0)
        if status != 0:
            raise RuntimeError(f"{Path(program).name} ended with {os.waitstatus_to_exitcode(status)}")
    return (time.monotonic() - begun) / MANY


def bundle(rootfs, directory):
    """What runc needs to run `true` once."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").unlink(missing_ok=True)
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(args=["true"], terminal=False)
    config["root"] = {"path": str(rootfs), "readonly": False}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def of_sandbox(rootfs, directory):
    """Starting one process, in nothing, in bare namespaces, and by others' programs."""
    true = shutil.which("true")
    yield "clone, exec", lambda: each([true])
    bare = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--net"]
    if unshare := shutil.which("unshare"):
        yield "unshare, clone, exec", lambda: each([unshare, *bare, true])
    if bwrap := shutil.which("bwrap"):
        sealed = ["--unshare-all", "--bind", rootfs, "/", "--dev", "/dev", "--proc", "/proc", "--die-with-parent"]
        yield "bwrap", lambda: each([bwrap, *sealed, "true"])
    if runc := shutil.which("runc"):
        place = bundle(rootfs, directory / "bundle")
        yield "runc run", lambda: each([runc, "--root", directory / "state", "run", "--bundle", place, "bench"])
