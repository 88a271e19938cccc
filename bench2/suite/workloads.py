"""Makes what is built. Everything lies in the work directory; what takes long to make is kept there between runs."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Failed, run

LEAST_FILES = 60_000
STAGES = 12
STEPS = 7
# A file somewhere in the middle of the tree: what a compressor remembers of a whole layer does not help with it.
CHANGED = "node_modules/lodash/lodash.js"
DEBIAN = "build-essential,ca-certificates,git,python3"
HERE = Path(__file__).resolve().parent.parent


def steps(base, count=STEPS):
    """A Dockerfile of `count` steps that do next to nothing, of which one copies."""
    runs = [f"RUN echo {number} > {number}" for number in range(count - 2)]
    return "\n".join([f"FROM {base}", "WORKDIR /app", "COPY greeting.txt .", *runs, ""])


def stages(base):
    """Ten stages that know nothing of each other between a first and a last one."""
    lines = [f"FROM {base} AS first", "RUN dd if=/dev/zero of=/zeros bs=1M count=4"]
    middle = range(STAGES - 2)
    for number in middle:
        lines += [f"FROM first AS part{number}", f"RUN (cat /zeros; echo {number}) | sha256sum > /sum{number}"]
        lines += [f"RUN gzip -c /zeros > /gz{number}"]
    lines += [f"FROM {base}"]
    for number in middle:
        lines += [f"COPY --from=part{number} /sum{number} /gz{number} /parts/"]
    return "\n".join([*lines, "RUN cat /parts/sum* > /all", ""])


@dataclass
class Workloads:
    """Directories of contexts, made when they are first asked for."""

    work: Path
    busybox: Path
    logs: Path
    tell: object
    made: dict = field(default_factory=dict)

    def context(self, name, dockerfile):
        """A small context with a Dockerfile beside it, and where that is."""
        context = self.work / "contexts" / name
        context.mkdir(parents=True, exist_ok=True)
        (context / "greeting.txt").write_text("hello\n")
        return context, self.dockerfile(name, dockerfile)

    def dockerfile(self, name, text):
        directory = self.work / "dockerfiles" / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "Dockerfile").write_text(text)
        return directory / "Dockerfile"

    def rootfs(self):
        """The base image's files, for programs that start one sandbox without a builder."""
        directory = self.work / "rootfs"
        if not (directory / "bin/busybox").exists():
            directory.mkdir(parents=True, exist_ok=True)
            subprocess.run(["tar", "-xf", self.busybox, "-C", directory], check=True)
        return directory

    def node(self):
        """A Node project with its installed dependencies, as its lock file names them. Nothing of them is executed."""
        source, target = HERE / "workloads/node", self.work / "node"
        lock = (source / "package-lock.json").read_bytes()
        stamp = self.work / "node.made-from"
        wanted = hashlib.sha256(lock).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            self.tell("installing node_modules")
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, target)
            log = self.logs / "npm.log"
            # `npm ci` of late also wants those packages in the lock file that are for other systems alone.
            run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"], log, target)
            shutil.copy(target / CHANGED, self.work / "node.unchanged")
            stamp.write_text(wanted)
        shutil.copy(self.work / "node.unchanged", target / CHANGED)
        files = sum(len(names) for _, _, names in os.walk(target))
        if files < LEAST_FILES:
            raise Failed(f"a node_modules of {files} files is too small")
        self.made["node files"] = files
        return target

    def change(self, number):
        """Makes one file of the Node project another one than in any build before."""
        kept = (self.work / "node.unchanged").read_bytes()
        (self.work / "node" / CHANGED).write_bytes(kept + f"// {number}\n".encode())

    def debian(self):
        """Debian with a compiler, git and Python, as a tar."""
        target = self.work / "debian/root.tar"
        if not target.exists():
            self.tell("making a Debian root file system")
            target.parent.mkdir(parents=True, exist_ok=True)
            part = self.work / "debian.part.tar"
            run(["mmdebstrap", "--quiet", "--format=tar", "--variant=minbase", f"--include={DEBIAN}",
                 "--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*", suite(), part], self.logs / "mmdebstrap.log")
            part.rename(target)
        self.made["debian megabytes"] = target.stat().st_size // 1_000_000
        return target


def suite():
    """The machine's own release of Debian, which its mirrors have."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return "bookworm"
