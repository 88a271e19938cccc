"""Commands that people run: each with a home of its own, in a session of its own, ended by its number if it does not end by itself."""

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

from suite import processes

PATIENCE = 300
# What a client says of where its build is shown; the last part is the build's id.
BUILD = re.compile(r"^.*?Build: \S+/([0-9a-z-]+)\s*$", re.MULTILINE)
UNWANTED = ("DEPOT_", "BUILDX_", "CI", "GITHUB_", "SOURCE_DATE_EPOCH", "SSH_AUTH_SOCK", "XDG_CONFIG_HOME")
TOKENS = re.compile(r"cfd_[a-z]+_[A-Za-z0-9_-]+")

# Commands that run at this moment.
running = set()


def without_tokens(text):
    return TOKENS.sub("(a token)", text)


class Unexpected(Exception):
    """Something that should not have happened, in words for the summary."""


class Command:
    """A command that was started, with what it says in a file."""

    def __init__(self, words, home, log, **variables):
        self.log = Path(log)
        kept = processes.environment(HOME=home, DOCKER_CONFIG=home, **variables)
        # Nobody answers there: nothing may depend on a daemon that happens to run.
        kept = {name: value for name, value in kept.items() if name in variables or not name.startswith(UNWANTED)}
        kept["DOCKER_HOST"] = f"unix://{home}/docker.sock"
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=kept, start_new_session=True)
        running.add(self)

    def said(self):
        return self.log.read_text(errors="replace")

    def last(self, length=900):
        return without_tokens(self.said()[-length:].strip())

    def says(self, text, patience=PATIENCE):
        """Waits until it says something."""
        end = time.monotonic() + patience
        while text not in self.said():
            if self.process.poll() is not None and text not in self.said():
                raise Unexpected(f"it ended with {self.process.returncode} before it said {text!r}: {self.last()}")
            if time.monotonic() > end:
                raise Unexpected(f"it does not say {text!r}: {self.last()}")
            time.sleep(0.05)

    def signal(self, number):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)

    def wait(self, patience=PATIENCE):
        """Its exit code."""
        late = threading.Event()

        def give_up():
            late.set()
            self.end()

        timer = threading.Timer(patience, give_up)
        timer.start()
        try:
            code = self.process.wait()
        finally:
            timer.cancel()
            running.discard(self)
        if late.is_set():
            raise Unexpected(f"it took more than {patience} s: {self.last()}")
        return code

    def end(self):
        """Ends it, if it still runs, with what is below it."""
        if self.process.poll() is None:
            processes.end(processes.tree([self.process.pid]))

    def build(self):
        """The id of the build it began."""
        found = BUILD.search(self.said())
        if not found:
            raise Unexpected(f"it did not say which build it is: {self.last()}")
        return found.group(1)


def interrupt(command):
    command.signal(signal.SIGINT)


def kill(command):
    command.signal(signal.SIGKILL)


def end_all():
    for command in list(running):
        command.end()
