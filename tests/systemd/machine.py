"""A machine of namespaces whose first process is a real systemd: it is made once, booted, asked, and leaves nothing."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = "busybox-static,ca-certificates,dbus,runsc,systemd"
LEFT_OUT = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"]
# A terminal that nobody has is no place to log in, and nothing in the machine is called what this host is called.
HOOKS = [
    'ln -s /dev/null "$1/etc/systemd/system/console-getty.service"',
    'echo machine > "$1/etc/hostname"; : > "$1/etc/machine-id"; echo nameserver 192.0.2.53 > "$1/etc/resolv.conf"',
    'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*',
]
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C", "SYSTEMD_PAGER": ""}
NAMESPACES = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]
# Longer than anything takes, so that what hangs is a failure.
PATIENCE = 180


class Failed(Exception):
    """A check that did not hold."""


def wait(what, question, seconds=60):
    """Asks until the answer is yes, and gives it."""
    end = time.monotonic() + seconds
    while True:
        if answer := question():
            return answer
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} seconds in vain: {what}")
        time.sleep(0.1)


def made_root(directory):
    """The file tree all machines begin with, from Debian packages."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    root, part = directory / "root", directory / "root.part"
    if root.is_dir():
        return root
    if part.exists():
        shutil.rmtree(part)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
    command += [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT] + [f"--customize-hook={hook}" for hook in HOOKS]
    subprocess.run([*command, release.get("VERSION_CODENAME", "bookworm").strip('"'), str(part)], check=True)
    part.rename(root)
    return root


def hierarchies():
    """Of each hierarchy of control groups its version and the directory a group for the machine can be made in."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind not in ("cgroup", "cgroup2") or not place.startswith("/sys/fs/cgroup"):
            continue
        # Limits on whoever runs this hold below its own group, which in version 2 has processes and so no room for others.
        words = options.split(",")
        path = next((path for names, path in own.items() if names and set(names.split(",")) <= set(words)), "/")
        above = Path(place + path) if kind == "cgroup" else Path(place)
        yield 1 if kind == "cgroup" else 2, above if above.is_dir() else Path(place)


def made_group(version, above, name):
    group = above / name
    group.mkdir()
    if version == 1 and (group / "cpuset.cpus").exists():
        for file in ("cpuset.cpus", "cpuset.mems"):
            (group / file).write_text((above / file).read_text())
        (group / "cgroup.clone_children").write_text("1")
    return group


def removed_group(group):
    """Whether the group is gone with all below it: processes that were killed hold them for a moment."""
    with contextlib.suppress(OSError):
        for below in [path for path in group.iterdir() if path.is_dir()]:
            removed_group(below)
        group.rmdir()
    return not group.exists()


class Machine:
    """A booted machine. Files in it are reached with `path`, programs run in it with `run` and `start`."""

    def __init__(self, directory):
        root = made_root(directory)
        self.work = Path(tempfile.mkdtemp(prefix="run.", dir=directory))
        self.groups, self.shell, self.first = [], None, None
        try:
            for version, above in hierarchies():
                self.groups.append(made_group(version, above, f"cofferdam-systemd-{os.getpid()}"))
            command = ["unshare", *NAMESPACES, "--fork", "--kill-child", str(HERE / "boot"), str(root), str(self.work)]
            self.shell = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=self._join)
            self.settled()
        except BaseException:
            self.close()
            raise

    def _join(self):
        for group in self.groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def settled(self):
        """Waits until systemd has started everything."""
        children = Path(f"/proc/{self.shell.pid}/task/{self.shell.pid}/children")

        def booted():
            if self.shell.poll() is not None:
                raise Failed(f"the machine ended with code {self.shell.returncode} before it had begun")
            self.first = children.read_text().strip()
            if not self.first or Path(f"/proc/{self.first}/comm").read_text().strip() != "systemd":
                return False
            return self.run("systemctl", "is-system-running", code=None).stdout.strip() in ("running", "degraded")

        wait("systemd has started everything", booted)
        if failed := self.said("systemctl", "list-units", "--failed", "--plain", "--no-legend"):
            raise Failed(f"units of the machine itself failed:\n{failed}")
        # boot says why it is covered until now.
        self.run("umount", "--lazy", "/proc/sys")

    def path(self, path):
        return Path(f"/proc/{self.first}/root{path}")

    def write(self, path, text, mode=0o644):
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def _command(self, command, environment):
        enter = ["nsenter", "--target", self.first, *NAMESPACES, "--root", "--wd"]
        return [*enter, "env", "-i", *(f"{name}={value}" for name, value in {**ENVIRONMENT, **environment}.items()), *command]

    def run(self, *command, code=0, environment=None):
        """Runs a program to its end; another exit code than `code` is a failure, unless that is None."""
        done = subprocess.run(self._command(command, environment or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        if code is not None and done.returncode != code:
            raise Failed(f"{' '.join(command)}: exit code {done.returncode} and not {code}\n{done.stdout}{done.stderr}")
        return done

    def said(self, *command):
        return self.run(*command).stdout.strip()

    def start(self, *command, environment=None):
        """Begins a program, whose output goes to the file `output` of what is returned."""
        output = Path(tempfile.mkstemp(dir=self.work)[1])
        with output.open("w") as file:
            begun = subprocess.Popen(self._command(command, environment or {}), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        begun.output = output
        return begun

    def processes(self):
        """Numbers, as this host has them, of all processes of the machine."""
        parents = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[entry.parent.name] = entry.read_text().rpartition(")")[2].split()[1]
        found = {self.first}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def close(self):
        """Ends all processes, with which namespaces and mounts go, and removes the rest."""
        if self.shell is not None:
            self.shell.kill()
            self.shell.wait()
        for group in self.groups:
            wait(f"{group} can be removed", functools.partial(removed_group, group))
        shutil.rmtree(self.work)
