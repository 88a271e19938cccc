"""What the load does: one function for each kind of thing that people do, which says what was not as it should be.

An action that is hit by another's reset or removal of the project is neither well nor wrong.
"""

import random as numbers
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from . import contexts
from .api import Refused
from .clients import Unexpected
from .scene import Project, Scene

# A build that was cancelled, or whose client is gone, has ended after this.
END = 60
CORE, DEPOT, OURS = "depot.core.v1", "depot.build.v1", "cofferdam.server.v1"


class Disturbed(Exception):
    """Somebody else took away what this needed."""


@dataclass
class Turn:
    """One action's own: the project, random numbers, an empty directory that goes afterwards, and one that stays with worker and
    project."""

    scene: Scene
    project: Project
    random: numbers.Random
    directory: Path
    lasting: Path

    def __post_init__(self):
        self.disturbances = self.project.disturbances
        self.deletions = self.project.deletions

    def fresh(self, text, size=300_000):
        return contexts.fresh(self.directory, text, self.random, self.scene.base, size)

    def ended_with(self, command, code, wanted):
        """Checks an exit code."""
        if code == wanted:
            return
        what = f"it ended with {code} instead of {wanted}: {command.last()}"
        raise Disturbed(what) if self.project.disturbances != self.disturbances else Unexpected(what)

    def finish(self, command, wanted=0):
        """Waits for a command, whose exit code has to be this one."""
        self.ended_with(command, command.wait(), wanted)
        return command

    def build(self, *words, wanted=0):
        """`cofferdam build` to its end."""
        return self.finish(self.scene.start(self.project, self.directory, words), wanted)

    def sleeping(self):
        """A build whose only step is under way and does not end."""
        context = self.directory / "sleeping"
        context.mkdir()
        contexts.dockerfile(context, contexts.SLEEPING, base=self.scene.base)
        command = self.scene.start(self.project, self.directory, ["--no-cache", context])
        try:
            command.says(contexts.UNDER_WAY)
        except Unexpected as wrong:
            command.end()
            command.wait()
            if self.project.disturbances != self.disturbances:
                raise Disturbed(str(wrong)) from None
            raise
        return command

    def has_ended(self, build, status):
        """Waits until a build is recorded as ended, in this way."""
        end = time.monotonic() + END
        while True:
            found = self.call(f"{CORE}.BuildService/GetBuild", buildId=build)["build"]["status"]
            if found != "STATUS_RUNNING":
                break
            if time.monotonic() > end:
                raise Unexpected(f"build {build} still runs {END} s after its end")
            time.sleep(0.1)
        if found != status and self.project.disturbances == self.disturbances:
            raise Unexpected(f"build {build} ended as {found} instead of {status}")

    def call(self, method, **message):
        return self.scene.api.call(method, message)


def uncached(turn):
    (turn.directory / "word").write_text("a word that nobody else knows")
    turn.build("--no-cache", "--secret", f"id=word,src={turn.directory / 'word'}", turn.fresh(contexts.WHOLE))


def cached(turn):
    turn.build(contexts.lasting(turn.lasting, turn.random, turn.scene.base))


def changed(turn):
    context = contexts.lasting(turn.lasting, turn.random, turn.scene.base)
    contexts.change(context, turn.random)
    turn.build(context)


def failing(turn):
    command = turn.build(turn.fresh(contexts.FAILING), wanted=1)
    if "exit code: 7" not in command.said():
        what = f"it failed for another reason: {command.last()}"
        raise Disturbed(what) if turn.project.disturbances != turn.disturbances else Unexpected(what)


def exported(turn):
    kind, name = turn.random.choice([("oci", "image.tar"), ("docker", "image.tar"), ("tar", "files.tar"), ("local", "files")])
    place = turn.directory / name
    turn.build("-o", f"type={kind},dest={place}", turn.fresh(contexts.SMALL, 1_000_000))
    if not place.exists() or (kind == "local" and not (place / "sum").exists()):
        raise Unexpected(f"nothing was written of type {kind}")


def saved(turn):
    command = turn.build("--save", "--save-tag", "latest", turn.fresh(contexts.SMALL))
    turn.scene.count_saved()
    tags = [image["tag"] for image in images(turn)]
    # Another worker may have deleted it since.
    if command.build() not in tags and turn.project.deletions == turn.deletions:
        raise Unexpected(f"{command.build()} is not among the images: {tags[:5]}")


def images(turn):
    return turn.call(f"{DEPOT}.RegistryService/ListImages", projectId=turn.project.id, pageSize=100).get("images", [])


def image_deleted(turn):
    tags = [image["tag"] for image in images(turn) if image["tag"] != "latest"]
    if not tags:
        saved(turn)
        tags = [image["tag"] for image in images(turn) if image["tag"] != "latest"]
    tag = turn.random.choice(tags)
    with turn.project.lock:
        turn.project.deletions += 1
    try:
        turn.call(f"{DEPOT}.RegistryService/DeleteImage", projectId=turn.project.id, imageTags=[tag])
    except Refused as refused:
        # The other worker had the same idea.
        if refused.code != "not_found":
            raise


def by_buildpacks(turn, *words):
    name = f"{turn.scene.registry.address}/app-{turn.project.name}:{'trusted' if words else 'untrusted'}"
    turn.build("--builder", turn.scene.builder_image, "-t", name, "--push", *words, contexts.app(turn.directory, turn.random))


def trusted(turn):
    by_buildpacks(turn, "--trust-builder")


def untrusted(turn):
    by_buildpacks(turn)


def by_depot(turn):
    context = turn.fresh(contexts.SMALL)
    turn.finish(turn.scene.start_depot(turn.project, turn.directory, [context]))


def interrupted(turn):
    """Ctrl-C."""
    command = turn.sleeping()
    command.signal(signal.SIGINT)
    turn.finish(command, 1)
    turn.has_ended(command.build(), "STATUS_CANCELED")


def cancelled(turn):
    """By somebody else, over the API."""
    command = turn.sleeping()
    build = command.build()
    turn.call(f"{OURS}.BuildService/CancelBuild", buildId=build)
    turn.finish(command, 1)
    turn.has_ended(build, "STATUS_CANCELED")


def killed(turn):
    """A client that is gone without a word. Nobody waits for the build's end; at rest there may be none that runs."""
    command = turn.sleeping()
    command.signal(signal.SIGKILL)
    turn.finish(command, -signal.SIGKILL)


def reset(turn):
    with turn.project.disturbed():
        turn.call(f"{CORE}.ProjectService/ResetProject", projectId=turn.project.id)


def reset_while_building(turn):
    command = turn.sleeping()
    with turn.project.disturbed():
        turn.call(f"{CORE}.ProjectService/ResetProject", projectId=turn.project.id)
    if command.wait() != 1:
        raise Unexpected(f"a build of a project that was reset went on: {command.last()}")
    turn.has_ended(command.build(), "STATUS_CANCELED")


def guest(turn):
    """A project that comes, builds, and is deleted, half the time while it builds."""
    guest = turn.scene.project("guest")
    own = Turn(turn.scene, guest, turn.random, turn.directory, turn.directory / "lasting")
    try:
        own.build("--save", own.fresh(contexts.SMALL))
        command = own.sleeping() if turn.random.random() < 0.5 else None
    finally:
        own.call(f"{CORE}.ProjectService/DeleteProject", projectId=guest.id)
    if command and command.wait() != 1:
        raise Unexpected(f"a build of a project that was deleted went on: {command.last()}")
    try:
        own.call(f"{CORE}.ProjectService/GetProject", projectId=guest.id)
    except Refused as refused:
        if refused.code == "not_found":
            return
        raise
    raise Unexpected("a project that was deleted is still there")


def reading(turn):
    """What people look at: lists, a build with its steps and logs, connections, usage, pages."""
    project = turn.project.id
    builds = turn.call(f"{CORE}.BuildService/ListBuilds", projectId=project, pageSize=10)
    if token := builds.get("nextPageToken"):
        turn.call(f"{CORE}.BuildService/ListBuilds", projectId=project, pageSize=10, pageToken=token)
    if builds.get("builds"):
        build = turn.random.choice(builds["builds"])["buildId"]
        turn.call(f"{CORE}.BuildService/GetBuild", buildId=build)
        turn.call(f"{OURS}.BuildService/ListConnections", buildId=build)
        steps = turn.call(f"{DEPOT}.BuildService/GetBuildSteps", projectId=project, buildId=build, pageSize=1000)
        for step in [step for step in steps.get("buildSteps", []) if step.get("hasLogs")][:2]:
            turn.call(f"{DEPOT}.BuildService/GetBuildStepLogs", projectId=project, buildId=build, buildStepDigest=step["digest"])
        url = turn.call(f"{CORE}.BuildService/ShareBuild", buildId=build)["shareUrl"]
        turn.scene.api.page(url)
        turn.call(f"{CORE}.BuildService/StopSharingBuild", buildId=build)
    now = datetime.now(UTC)
    window = {"startAt": moment(now - timedelta(hours=2)), "endAt": moment(now)}
    turn.call(f"{CORE}.UsageService/GetProjectUsage", projectId=project, **window)
    turn.call(f"{CORE}.UsageService/ListProjectUsage", **window)
    turn.call(f"{CORE}.ProjectService/ListProjects")
    turn.scene.api.page("/healthz")


def moment(time):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def tokens(turn):
    made = turn.call(f"{CORE}.ProjectService/CreateToken", projectId=turn.project.id, description="short-lived")
    turn.scene.api.call(f"{CORE}.BuildService/ListBuilds", {"projectId": turn.project.id}, made["secret"])
    turn.call(f"{CORE}.ProjectService/DeleteToken", tokenId=made["tokenId"])
    try:
        turn.scene.api.call(f"{CORE}.BuildService/ListBuilds", {"projectId": turn.project.id}, made["secret"])
    except Refused as refused:
        if refused.code == "unauthenticated":
            return
        raise
    raise Unexpected("a deleted token is good for something")


@dataclass
class Action:
    """A kind of action and how often it comes, beside others. `keeps`: it may be done in the project that is never left alone."""

    name: str
    does: Callable
    weight: float
    keeps: bool = True


ACTIONS = [
    Action("Dockerfile, no cache", uncached, 18),
    Action("Dockerfile, cached", cached, 14),
    Action("Dockerfile, changed", changed, 14),
    Action("Dockerfile, fails", failing, 6),
    Action("export", exported, 7),
    Action("save", saved, 7),
    Action("image delete", image_deleted, 3),
    Action("buildpacks, trusted", trusted, 6),
    Action("buildpacks, untrusted", untrusted, 5),
    Action("Depot's client", by_depot, 6),
    Action("interrupted", interrupted, 4),
    Action("cancelled", cancelled, 4),
    Action("client killed", killed, 1),
    Action("reset", reset, 1.5, keeps=False),
    Action("reset while building", reset_while_building, 1, keeps=False),
    Action("project made and deleted", guest, 1.5, keeps=False),
    Action("reading", reading, 6),
    Action("tokens", tokens, 2),
]


def available(scene):
    """The actions that this machine has clients for."""
    return [action for action in ACTIONS if action.does is not by_depot or scene.depot]


def carry_out(action, turn):
    """Outcome and what there is to say."""
    try:
        action.does(turn)
    except Disturbed as disturbed:
        return "disturbed", str(disturbed)
    except (Unexpected, Refused) as wrong:
        return "unexpected", str(wrong)
    except Exception as wrong:
        return "unexpected", f"{type(wrong).__name__}: {wrong}"
    finally:
        shutil.rmtree(turn.directory, ignore_errors=True)
    return "ok", ""
