"""Workers that do one action after the other, in projects that take turns at being busy, and stand still when they are told to."""

import contextlib
import csv
import random as numbers
import threading
import time
from collections import deque

from . import actions
from .clients import end_all

# So many projects are busy at a time, and every so many seconds another one takes the place of the longest busy: builders come and go.
HOT = 6
TURN = 12
PATIENCE = 400


class Gate:
    """Lets workers pass, or holds them and waits until none is inside."""

    def __init__(self):
        self.changed = threading.Condition()
        self.open = True
        self.over = False
        self.inside = 0

    @contextlib.contextmanager
    def passed(self):
        """Whether there is anything more to do."""
        with self.changed:
            self.changed.wait_for(lambda: self.open or self.over)
            over = self.over
            self.inside += 1
        try:
            yield not over
        finally:
            with self.changed:
                self.inside -= 1
                self.changed.notify_all()

    def close(self, patience=PATIENCE):
        """Holds everybody; false when somebody does not come out."""
        with self.changed:
            self.open = False
            return self.changed.wait_for(lambda: self.inside == 0, patience)

    def reopen(self):
        with self.changed:
            self.open = True
            self.changed.notify_all()

    def finish(self):
        with self.changed:
            self.over = True
            self.changed.notify_all()


class Hot:
    """The projects that are busy at the moment."""

    def __init__(self, projects, random, clock=time.monotonic):
        self.waiting = deque(projects)
        self.busy = deque()
        self.random = random
        self.clock = clock
        self.lock = threading.Lock()
        while self.waiting and len(self.busy) < HOT:
            self.busy.append(self.waiting.popleft())
        self.next = clock() + TURN

    def pick(self):
        with self.lock:
            while self.clock() >= self.next:
                self.next += TURN
                if self.waiting:
                    self.waiting.append(self.busy.popleft())
                    # Whose turn it is next, is not the same each time.
                    self.waiting.rotate(-self.random.randrange(len(self.waiting)))
                    self.busy.append(self.waiting.popleft())
            return self.random.choice(self.busy)


class Events:
    """What was done and how it went, in `events.csv` and in counts."""

    COLUMNS = ("seconds", "worker", "project", "action", "outcome", "took", "said")

    def __init__(self, path, begun):
        self.begun = begun
        self.file = open(path, "w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        self.writer.writerow(self.COLUMNS)
        self.lock = threading.Lock()
        self.counts = {}
        self.durations = {}
        self.unexpected = []

    def add(self, worker, project, action, outcome, begun, said):
        now = time.monotonic()
        with self.lock:
            moment = round(begun - self.begun, 1)
            self.writer.writerow([moment, worker, project, action, outcome, round(now - begun, 3), said])
            self.file.flush()
            self.counts.setdefault(action, {}).setdefault(outcome, 0)
            self.counts[action][outcome] += 1
            if outcome == "ok":
                self.durations.setdefault(action, []).append(now - begun)
            elif outcome == "unexpected":
                self.unexpected.append((moment, project, action, said))

    def total(self):
        with self.lock:
            return sum(sum(outcomes.values()) for outcomes in self.counts.values())

    def close(self):
        self.file.close()


class Load:
    """The workers. The last of them, alone with the first project, sees to it that this one's builder never ends of idleness."""

    def __init__(self, scene, events, parallel, seed):
        self.scene = scene
        self.events = events
        self.gate = Gate()
        known = actions.available(scene)
        self.known = known
        # Each once, so that the first time at rest comes after all of them.
        self.first = deque(known)
        self.hot = Hot(scene.projects[1:], numbers.Random(seed))
        self.threads = [
            threading.Thread(target=self._work, args=(number, numbers.Random(f"{seed}-{number}")), daemon=True)
            for number in range(parallel)]
        self.threads.append(threading.Thread(target=self._keep, args=(numbers.Random(f"{seed}-keeper"),), daemon=True))

    def start(self):
        for thread in self.threads:
            thread.start()

    def _choose(self, random):
        with contextlib.suppress(IndexError):
            return self.first.popleft()
        return random.choices(self.known, [action.weight for action in self.known])[0]

    def _work(self, worker, random):
        number = 0
        while True:
            with self.gate.passed() as more:
                if not more:
                    return
                number += 1
                self._do(worker, number, self._choose(random), self.hot.pick(), random)

    def _keep(self, random):
        """Does what leaves the builder as it is, with pauses shorter than idleness."""
        kept = [action for action in self.known if action.keeps]
        weights = [action.weight for action in kept]
        number = 0
        while True:
            with self.gate.passed() as more:
                if not more:
                    return
                number += 1
                self._do("keeper", number, random.choices(kept, weights)[0], self.scene.projects[0], random)
            time.sleep(self.scene.idle / 4)

    def _do(self, worker, number, action, project, random):
        directory = self.scene.work / "turns" / f"{worker}-{number}"
        directory.mkdir(parents=True)
        lasting = self.scene.work / "lasting" / f"{worker}-{project.name}"
        turn = actions.Turn(self.scene, project, random, directory, lasting)
        begun = time.monotonic()
        outcome, said = actions.carry_out(action, turn)
        self.events.add(worker, project.name, action.name, outcome, begun, said)

    def end(self):
        """Ends it at once; what still runs is ended with it."""
        self.gate.finish()
        deadline = time.monotonic() + PATIENCE
        while any(thread.is_alive() for thread in self.threads) and time.monotonic() < deadline:
            end_all()
            time.sleep(0.1)
