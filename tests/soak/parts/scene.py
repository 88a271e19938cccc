"""What the soak takes place in: a registry with base images, a server with an empty data directory, projects, a builder image."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from suite import cleanup, processes
from suite.processes import Daemon
from suite.registry import Registry

from . import looks
from .api import Api, Refused
from .clients import Command, Unexpected, without_tokens

HERE = Path(__file__).resolve().parent.parent
TOP = HERE.parent.parent
START = 60
STOP = 90
# Most that a project's cache may take: small, so that something is evicted in each of them long before the run is over.
CACHE = "64MB"

SETTINGS = """
drain_seconds = 10
[builders]
idle_seconds = {idle}
[builder.egress]
vouched = ["127.0.0.1"]
[builder.history]
maxEntries = 20
[[builder.worker.oci.gcpolicy]]
all = true
maxUsedSpace = "{cache}"
"""

USERS = """
FROM {base} AS run
RUN echo 'cnb:x:1001:1000::/home:/bin/sh' >> /etc/passwd
LABEL io.buildpacks.base.distro.name=debian io.buildpacks.base.distro.version=12
USER 1001:1000
FROM run AS build
ENV CNB_USER_ID=1001 CNB_GROUP_ID=1000
"""


class Server:
    """The server under load."""

    def __init__(self, program, directory, idle):
        directory.mkdir(parents=True)
        # Builders of projects have to pass through.
        directory.chmod(0o711)
        self.data = directory / "data"
        self.log = directory / "server.log"
        settings = directory / "server.toml"
        settings.write_text(SETTINGS.format(idle=idle, cache=CACHE))
        self.daemon = Daemon(
            [program, "server", "--listen", "127.0.0.1:0", "--data-dir", self.data, "--config", settings], self.log)
        try:
            self.daemon.answers_within(START, self._port, 0.05)
        except BaseException:
            self.daemon.stop()
            raise
        self.address = f"127.0.0.1:{self._port()}"
        self.url = f"http://{self.address}"

    @property
    def pid(self):
        return self.daemon.pid

    def said(self):
        return self.log.read_text(errors="replace")

    def _port(self):
        found = re.search(r"127\.0\.0\.1:([1-9]\d*)", self.said())
        if not found or not self.token():
            raise ConnectionError("not yet")
        return found.group(1)

    def token(self):
        found = re.search(r"cfd_org_[A-Za-z0-9_-]+", self.said())
        return found.group(0) if found else ""

    def stop(self, supervisors):
        """Asks it to end and says what it left, of its processes, mounts and control groups."""
        if self.daemon.process.poll() is not None:
            return [f"the server ended by itself with {self.daemon.process.returncode}"]
        troubles = []
        tree = processes.tree([self.pid])
        os.kill(self.pid, signal.SIGTERM)
        try:
            if code := self.daemon.process.wait(STOP):
                troubles.append(f"the server ended with {code}")
        except subprocess.TimeoutExpired:
            troubles.append(f"the server did not end in {STOP} s")
        if left := gone(tree):
            troubles.append(f"processes were left: {left}")
        if left := cleanup.mounts_below(self.data):
            troubles.append(f"mounts were left: {left[:5]}")
        if left := looks.groups(supervisors):
            troubles.append(f"control groups were left: {left[:5]}")
        processes.end(tree)
        return troubles


def gone(tree, patience=10):
    """What is left of processes after a while, by number, with its name."""
    end = time.monotonic() + patience
    while True:
        now = looks.processes()
        left = {pid: now[pid] for pid, begun in tree.items() if pid in now and now[pid].begun == begun and now[pid].state not in "ZX"}
        if not left or time.monotonic() > end:
            return {pid: " ".join(looks.words(pid))[:80] for pid in left}
        time.sleep(0.05)


@dataclass(eq=False)
class Project:
    """A project with a token of its own. `disturbances` counts what makes other builds in it fail and is not their fault, `deletions`
    what takes images away."""

    name: str
    id: str
    token: str
    disturbances: int = 0
    deletions: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def disturbed(self):
        """Counts twice: a build that began before the end of what happens in the block may be hit by it."""
        with self.lock:
            self.disturbances += 1
        try:
            yield
        finally:
            with self.lock:
                self.disturbances += 1


@dataclass
class Scene:
    """Everything that actions need."""

    program: Path
    depot: Path | None
    work: Path
    registry: Registry
    server: Server
    api: Api
    base: str
    idle: float
    projects: list = field(default_factory=list)
    builder_image: str = ""
    # Bytes of the image store grow with these.
    saved: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count_saved(self):
        with self.lock:
            self.saved += 1

    def project(self, name):
        """Makes a project and a token for it."""
        policy = {"keepGb": 1, "keepDays": 1}
        made = self.api.call(
            "depot.core.v1.ProjectService/CreateProject", {"name": name, "regionId": "us-east-1", "cachePolicy": policy})
        number = made["project"]["projectId"]
        token = self.api.call("depot.core.v1.ProjectService/CreateToken", {"projectId": number, "description": "soak"})
        return Project(name, number, token["secret"])

    def start(self, project, directory, words, verb=("build",)):
        """Starts `cofferdam build` in a project of the server."""
        command = [
            self.program, *verb, "--server", self.server.url, "--project", project.id, "--progress", "plain", *words]
        return Command(command, directory, directory / "log", COFFERDAM_TOKEN=project.token)

    def start_depot(self, project, directory, words):
        """Starts Depot's own command line in a project of the server."""
        command = [self.depot, "build", "--project", project.id, "--progress", "plain", *words]
        return Command(
            command, directory, directory / "log", DEPOT_API_URL=self.server.url, DEPOT_TOKEN=project.token,
            DEPOT_NO_UPDATE_NOTIFIER="1", DEPOT_ERROR_TELEMETRY="0", DEPOT_DISABLE_OTEL="1")

    def make_builder_image(self):
        """Makes the base images of apps and a builder image of the buildpack beside this program, by a builder of the server."""
        directory = self.work / "builder-image"
        shutil.copytree(HERE / "buildpack", directory)
        (directory / "Dockerfile").write_text(USERS.format(base=self.base).lstrip())
        settings = directory / "builder.toml"
        settings.write_text(settings.read_text().replace("REGISTRY", self.registry.address))
        project = self.projects[0]
        for stage in ("run", "build"):
            name = f"{self.registry.address}/soak-{stage}:1"
            succeed(self.start(project, directory, ["--target", stage, "-t", name, "--push", directory]))
        name = f"{self.registry.address}/soak-builder:1"
        succeed(self.start(project, directory, [name, "--config", settings, "--push"], ("builder-image", "create")))
        self.builder_image = name


def succeed(command):
    if code := command.wait():
        raise Unexpected(f"it ended with {code}: {command.last()}")


@contextlib.contextmanager
def opened(given, work):
    """A scene that has been set, with the server's troubles at its end in the list it comes with."""
    troubles = []
    images = TOP / "target/test-images"
    depot = TOP / "target/test-clients/bin/depot"
    logs = work / "logs"
    logs.mkdir()
    with Registry(work / "registry", logs) as registry:
        base = registry.push("busybox", images / "busybox.tar")
        program = own_copy(given.program, work)
        server = Server(program, work / "server", given.idle)
        watch = looks.Watch(server.pid)
        try:
            api = Api(server.url, server.token())
            scene = Scene(
                program, depot if os.access(depot, os.X_OK) else None, work, registry, server, api, base, given.idle)
            scene.projects = [scene.project(f"soak-{number}") for number in range(given.projects)]
            watch.steady = scene.projects[0].id
            scene.make_builder_image()
            yield scene, watch, troubles
        finally:
            try:
                watch.builders(looks.processes())
                troubles += server.stop(watch.supervisors)
            finally:
                server.daemon.stop()
                given.out.mkdir(parents=True, exist_ok=True)
                keep_log(server, given.out)


def own_copy(program, work):
    """The program in a file that nobody else runs: pages of a file that others run, too, would count as a part."""
    directory = work / "program"
    directory.mkdir(mode=0o755)
    return Path(shutil.copy(program, directory / "cofferdam"))


def keep_log(server, out):
    """The server's messages, without the token it printed."""
    (out / "server.log").write_text(without_tokens(server.said()))


def running_builds(api):
    """How many builds run, or none when the server does not say."""
    try:
        return api.figures().get("cofferdam_builds_running", 0.0)
    except Refused:
        return None
