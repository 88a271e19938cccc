"""The builders that are compared: how each is started, asked to build and stopped.

Each has a directory of its own for everything it keeps. None of them is told to do less than it does by itself, except for what the
machine would have to lend it: dockerd makes no bridge and no packet filter.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import grpc, processes
from .processes import Daemon, Failed

PATIENCE = 60


@dataclass
class Job:
    """One build. Without `oci` nothing is exported, by builders that can build without."""

    context: Path
    dockerfile: Path
    no_cache: bool = True
    oci: Path | None = None


@dataclass
class Programs:
    """Where the programs are. None: not on this machine."""

    cofferdam: Path
    buildkitd: Path | None
    buildctl: Path | None
    docker: str | None
    dockerd: str | None
    buildah: str | None


class Peer:
    """A builder with a directory of its own."""

    name = ""
    # Its program, as `Programs` names it.
    program_name = ""
    remark = ""
    oci_remark = ""

    def __init__(self, programs, directory, log, socket):
        self.programs = programs
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.socket = socket
        self.daemon = None
        self.started = 0.0
        self.own_copy = False
        self.patience = processes.PATIENCE

    @classmethod
    def missing(cls, _programs):
        """Why this peer cannot be measured here, or nothing."""
        return ""

    @classmethod
    def version(cls, programs):
        return processes.said([getattr(programs, cls.program_name), "--version"])

    def command(self):
        """The command of its daemon; builders without one have nothing to start."""
        return None

    def ask(self):
        """Returns once the daemon has answered; OSError while it does not."""
        grpc.workers(self.socket)

    def start(self):
        command = self.command()
        if command:
            self.daemon = Daemon(command, self.log)
            try:
                self.started = self.daemon.answers_within(PATIENCE, self.ask)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self):
        if self.daemon:
            self.daemon.stop()
            self.daemon = None

    def roots(self):
        """The processes whose memory, with all below them, is the builder's."""
        return [self.daemon.pid] if self.daemon else list(processes.clients)

    def commands(self, job):
        """The commands of a build, one after another."""
        raise NotImplementedError

    def variables(self):
        return {}

    def client(self, job):
        """Starts a build of one command; several can run at once."""
        command, = self.commands(job)
        return processes.Client(command, self.log, **self.variables())

    def build(self, job):
        """Builds, and says how many seconds it took."""
        if job.oci:
            job.oci.unlink(missing_ok=True)
        took = sum(processes.run(command, self.log, patience=self.patience, **self.variables()) for command in self.commands(job))
        if job.oci:
            if not job.oci.exists() or job.oci.stat().st_size < 1024:
                raise Failed(f"{self.name} wrote no image")
            job.oci.unlink()
        return took


def by_own_client(peer, job):
    """`cofferdam build` against any builder that speaks BuildKit's protocol."""
    return [
        peer.programs.cofferdam, "build", "--addr", f"unix://{peer.socket}", "--progress", "plain", "-f", job.dockerfile,
        *(["--no-cache"] if job.no_cache else []), *(["-o", f"type=oci,dest={job.oci}"] if job.oci else []), job.context,
    ]


class Common(Peer):
    """Builders of BuildKit's protocol, with the same client for all: buildctl where there is one, else ours."""

    def config(self):
        """A configuration that says nothing: what a machine has must not be measured along."""
        config = self.directory / "config.toml"
        config.write_text("")
        return config

    def commands(self, job):
        if not self.programs.buildctl:
            return [by_own_client(self, job)]
        return [[
            self.programs.buildctl, "--addr", f"unix://{self.socket}", "build", "--progress", "plain", "--frontend", "dockerfile.v0",
            "--local", f"context={job.context}", "--local", f"dockerfile={job.dockerfile.parent}",
            "--opt", f"filename={job.dockerfile.name}", *(["--no-cache"] if job.no_cache else []),
            *(["--output", f"type=oci,dest={job.oci}"] if job.oci else []),
        ]]


class Ours(Common):
    name = "cofferdam"
    program_name = "cofferdam"

    def program(self):
        """The program, or a copy: pages of a file that several builders run are counted as a part of each only."""
        if not self.own_copy:
            return self.programs.cofferdam
        copy = self.directory / "cofferdam"
        if not copy.exists():
            shutil.copy(self.programs.cofferdam, copy)
        return copy

    def command(self):
        # The registry of the base images is on loopback, which a builder reaches by its operator's word alone.
        return [
            self.program(), "builder", "--root", self.directory / "root", "--addr", f"unix://{self.socket}",
            "--config", self.config(), "--allow-registry", "127.0.0.1",
        ]


class OursWhole(Ours):
    name = "cofferdam, its own client"
    remark = "`cofferdam build` instead of `buildctl`"

    @classmethod
    def missing(cls, programs):
        return "" if programs.buildctl else "without buildctl, everything is measured with it"

    def commands(self, job):
        return [by_own_client(self, job)]


class Buildkitd(Common):
    name = "buildkitd"
    program_name = "buildkitd"
    remark = "steps in the host's network"

    @classmethod
    def missing(cls, programs):
        if not programs.buildkitd:
            return "say where one is with --buildkitd"
        return "" if shutil.which("runc") else "it needs runc"

    def command(self):
        return [
            self.programs.buildkitd, "--root", self.directory / "root", "--addr", f"unix://{self.socket}", "--config", self.config(),
            "--oci-worker", "true", "--containerd-worker", "false", "--oci-worker-net", "host",
            "--otel-socket-path", f"{self.socket}.otel",
        ]


class Docker(Peer):
    name = "dockerd"
    program_name = "dockerd"
    remark = "always makes an image; steps without a network"
    oci_remark = "`docker save`, which compresses nothing"

    @classmethod
    def missing(cls, programs):
        return "" if programs.docker and programs.dockerd else "package docker.io"

    def command(self):
        config = self.directory / "daemon.json"
        config.write_text(json.dumps({"features": {"buildkit": True}}))
        return [
            self.programs.dockerd, "--config-file", config, "--data-root", self.directory / "data", "--exec-root",
            self.directory / "exec", "--pidfile", self.directory / "pid", "-H", f"unix://{self.socket}", "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false",
        ]

    def ask(self):
        grpc.http(self.socket, "/_ping")

    def variables(self):
        return {"DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": self.directory / "client"}

    def commands(self, job):
        docker = [self.programs.docker, "-H", f"unix://{self.socket}"]
        build = [
            *docker, "build", "--progress", "plain", "--network", "none", "-t", "bench", "-f", job.dockerfile,
            *(["--no-cache"] if job.no_cache else []), job.context,
        ]
        return [build, [*docker, "save", "-o", job.oci, "bench"]] if job.oci else [build]


class Buildah(Peer):
    name = "buildah"
    program_name = "buildah"
    remark = "`--isolation chroot --layers`: no sandbox; always makes an image"

    @classmethod
    def missing(cls, programs):
        return "" if programs.buildah else "package buildah"

    def commands(self, job):
        policy = self.directory / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        buildah = [
            self.programs.buildah, "--root", self.directory / "root", "--runroot", self.directory / "run",
            "--storage-driver", "overlay",
        ]
        build = [
            *buildah, "build", "--isolation", "chroot", "--layers", "--jobs", os.cpu_count() or 1, "--tls-verify=false",
            "--signature-policy", policy, "-t", "bench", "-f", job.dockerfile, *(["--no-cache"] if job.no_cache else []), job.context,
        ]
        push = [*buildah, "push", "--signature-policy", policy, "--format", "oci", "bench", f"oci-archive:{job.oci}"]
        return [build, push] if job.oci else [build]

    def variables(self):
        return {"REGISTRY_AUTH_FILE": "", "TMPDIR": self.directory}


ALL = (Ours, OursWhole, Buildkitd)


def found(programs, kinds=ALL):
    """The peers of these kinds that this machine has, and why it has not the others."""
    absent = {peer.name: reason for peer in kinds if (reason := peer.missing(programs))}
    return [peer for peer in kinds if peer.name not in absent], absent
