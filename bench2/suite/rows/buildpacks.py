"""An app without a Dockerfile: the hello-world of buildpacks, built again.

Ours alone: `pack` needs lifecycle and builder images of a registry on the Internet, and is not measured.
"""

import contextlib
import shutil

from .. import processes
from ..peers import Ours, OursWhole
from ..workloads import HERE
from . import Entry, Row

USERS = """
FROM {base} AS run
RUN echo 'cnb:x:1001:1000::/home:/bin/sh' >> /etc/passwd
LABEL io.buildpacks.base.distro.name=debian io.buildpacks.base.distro.version=12
USER 1001:1000
FROM run AS build
ENV CNB_USER_ID=1001 CNB_GROUP_ID=1000
"""


def builder_image(bench, peer):
    """Makes the two base images and the builder, and says the builder's name."""
    to = ["--addr", f"unix://{peer.socket}", "--progress", "plain", "--push"]
    program = bench.programs.cofferdam
    context, file = bench.workloads.context("buildpacks", USERS.format(base=bench.base).lstrip())
    for stage in ("run", "build"):
        name = f"{bench.registry.address}/hello-{stage}:1"
        processes.run([program, "build", *to, "-f", file, "--target", stage, "-t", name, context], peer.log)
    modules = peer.directory / "hello"
    shutil.copytree(HERE / "workloads/hello", modules)
    settings = modules / "builder.toml"
    settings.write_text(settings.read_text().replace("REGISTRY", bench.registry.address))
    name = f"{bench.registry.address}/hello-builder:1"
    processes.run([program, "builder-image", "create", name, *to, "--config", settings], peer.log)
    return name


@contextlib.contextmanager
def opened(bench):
    with bench.running("buildpacks", [OursWhole]) as (peer,):
        app = peer.directory / "app"
        shutil.copytree(HERE / "workloads/hello/app", app)
        command = [
            bench.programs.cofferdam, "build", "--addr", f"unix://{peer.socket}", "--progress", "plain", "--trust-builder",
            "--builder", builder_image(bench, peer), "-t", f"{bench.registry.address}/hello:1", "--push", app,
        ]

        def run():
            # The app is another one each time, and everything else is as before.
            (app / "greeting.txt").write_text(f"hello {next(bench.numbers)}\n")
            return processes.run(command, peer.log)

        yield [Entry(Ours.name, run, peer.roots, "its own client; pushes to a registry on loopback")]


ROWS = [
    Row("buildpacks", "hello-world by a buildpack, its app changed, everything else there", opened,
        promise="1/10 of pack, which is not measured here"),
]
