"""Starts programs, times them and ends them.

Whatever is started here has a session of its own and is ended by its own number, with what it left behind. Never is anything ended by
name, and never anything that was not started here.
"""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

PATIENCE = 1800
STOP_PATIENCE = 30
# What would lead a client elsewhere, or a request off this machine.
UNWANTED = ("BUILDKIT_", "BUILDAH_", "COFFERDAM_", "CONTAINERS_", "DOCKER_", "OTEL_")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "FTP_PROXY")

# Clients that run at this moment; of builders without a daemon they are all there is.
clients = set()


class Failed(Exception):
    """A program that did not do what it was asked for. The last it said is for whoever runs this, and not for results."""

    def __init__(self, what, log=None):
        super().__init__(what)
        self.last = last_of(log) if log else ""


class Late(Failed):
    """A program that was ended because it took longer than the seconds it was given."""

    def __init__(self, seconds, log=None):
        super().__init__(seconds, log)
        self.seconds = seconds

    def __str__(self):
        return f"it took more than {self.seconds:g} s"


def environment(**more):
    """This process's environment without what changes how peers behave."""
    kept = {
        name: value for name, value in os.environ.items()
        if not name.startswith(UNWANTED) and name.upper() not in PROXIES
    }
    return {**kept, **{name: str(value) for name, value in more.items()}}


def last_of(log):
    """The end of a log, for a message."""
    return Path(log).read_text(errors="replace")[-1500:].strip()


def parents():
    """Parent and start time of each process there is."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(entry.name)] = (int(fields[1]), int(fields[19]))
    return found


def tree(roots):
    """The given processes and all below them, each with its start time."""
    known = parents()
    children = {}
    for pid, (parent, _) in known.items():
        children.setdefault(parent, []).append(pid)
    found, waiting = {}, [pid for pid in roots if pid in known]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found[pid] = known[pid][1]
            waiting += children.get(pid, [])
    return found


def end(processes):
    """Kills what of these processes is still there; a number that somebody else has by now is left alone."""
    now = parents()
    for pid, begun in processes.items():
        if pid in now and now[pid][1] == begun:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class Daemon:
    """A program that runs until it is stopped."""

    def __init__(self, command, log, **variables):
        self.log = Path(log)
        self.begun = time.monotonic()
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment(**variables), start_new_session=True)

    @property
    def pid(self):
        return self.process.pid

    def answers_within(self, patience, question, pause=0.001):
        """Seconds from its start until `question` has an answer; OSError means not yet."""
        while True:
            if self.process.poll() is not None:
                raise Failed("a daemon ended by itself", self.log)
            try:
                question()
                return time.monotonic() - self.begun
            except OSError:
                pass
            if time.monotonic() - self.begun > patience:
                raise Failed(f"no answer of a daemon in {patience} s", self.log)
            time.sleep(pause)

    def stop(self):
        """Asks it to end, and ends what is left of it and of its children then."""
        if self.process.poll() is not None:
            return
        below = tree([self.pid])
        self.process.terminate()
        try:
            self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        end(below)
        self.process.wait()


class Client:
    """A command that runs to its end; several may run at once."""

    def __init__(self, command, log, directory=None, **variables):
        self.command = [str(word) for word in command]
        self.log = Path(log)
        self.late = False
        self.begun = time.monotonic()
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory,
                env=environment(**variables), start_new_session=True)
        clients.add(self.process.pid)

    def wait(self, patience=PATIENCE):
        """Seconds it took. Waits without looking again and again, which would round what is measured."""
        late = threading.Timer(max(0, patience), self._too_late)
        late.start()
        try:
            code = self.process.wait()
            took = time.monotonic() - self.begun
        finally:
            late.cancel()
            self.end()
        if code != 0:
            if self.late:
                raise Late(patience, self.log)
            raise Failed(f"`{Path(self.command[0]).name}` ended with {code}", self.log)
        return took

    def _too_late(self):
        self.late = True
        end(tree([self.process.pid]))

    def end(self):
        """Ends it, if it still runs, with what is below it."""
        if self.process.poll() is None:
            end(tree([self.process.pid]))
            self.process.wait()
        clients.discard(self.process.pid)


def run(command, log, directory=None, patience=PATIENCE, **variables):
    """Runs a command to its end and says how many seconds that took."""
    return Client(command, log, directory, **variables).wait(patience)


def said(command, **variables):
    """What a command prints, or nothing when it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, check=False, timeout=60, env=environment(**variables))
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
