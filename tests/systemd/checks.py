"""What is asked of the unit, in the order of its life. Each check is a function; its documentation is the line that is printed."""

import contextlib
import json
import os
import re
from pathlib import Path

from machine import Failed, wait

TOP = Path(__file__).resolve().parent.parent.parent
UNIT = "cofferdam-server"
SERVER = "http://127.0.0.1:8080"
DATA = "/var/lib/cofferdam"
# Something for steps to reach: an address of the machine, which the policy names.
REACHED = "10.83.0.1"
CONFIGURATION = f"""listen = "127.0.0.1:8080"
drain_seconds = 10

[builder.egress]
mode = "list"
allow = ["{REACHED}:80"]
"""
# First of the host ids that belong to projects.
PROJECTS = 268_435_456
SYS_RESOURCE = 24


class NotTried(Exception):
    """What this machine cannot show, and why. Nothing is said about the unit."""


def hold(condition, what):
    if not condition:
        raise Failed(what)


class Service:
    """The unit in a machine, and a client of its server."""

    def __init__(self, machine):
        self.machine = machine
        self.account = {"COFFERDAM_SERVER": SERVER}

    def install(self, program):
        """As docs/operating.md says, but for the organization, which the first start makes here."""
        machine = self.machine
        target = machine.path("/usr/local/bin/cofferdam")
        target.write_bytes(program.read_bytes())
        target.chmod(0o755)
        machine.write("/etc/cofferdam/server.toml", CONFIGURATION, 0o600)
        machine.write(f"/etc/systemd/system/{UNIT}.service", self.unit())
        machine.run("systemctl", "daemon-reload")
        machine.run("busybox", "ip", "address", "add", f"{REACHED}/32", "dev", "lo")
        machine.write("/srv/index.html", "reached\n")
        machine.run("busybox", "httpd", "-p", f"{REACHED}:80", "-h", "/srv")

    def unit(self):
        return (TOP / f"contrib/systemd/{UNIT}.service").read_text()

    def shown(self, name):
        return self.machine.said("systemctl", "show", "--value", "--property", name, UNIT)

    def main(self):
        """The server's number in the machine."""
        return self.shown("MainPID")

    def status(self, name):
        """A line of the server's state as the kernel tells it."""
        text = self.machine.said("cat", f"/proc/{self.main()}/status")
        return re.search(rf"^{name}:\s*(.*)$", text, re.MULTILINE)[1]

    def serves(self):
        hold(self.machine.said("systemctl", "is-active", UNIT) == "active", "the unit is not active")
        health = self.machine.said("busybox", "wget", "-qO-", f"{SERVER}/healthz")
        hold(health == "ok", f"/healthz answers {health!r}")
        line = self.shown("StatusText")
        hold(line == f"listens on {SERVER}", f"the status line is {line!r}")

    def journal(self, *options):
        self.machine.run("journalctl", "--sync")
        return self.machine.said("journalctl", "--no-pager", "--output=cat", *options)

    def client(self, *command):
        return self.machine.run("cofferdam", *command, environment=self.account).stdout.strip()

    def context(self, name, *lines):
        """A context on nothing but busybox."""
        directory = f"/root/{name}"
        text = "\n".join(["FROM scratch", "COPY busybox /bin/sh", "COPY --chmod=4755 busybox /bin/busybox", "COPY passwd /etc/passwd", *lines])
        self.machine.write(f"{directory}/Dockerfile", text + "\n")
        self.machine.write(f"{directory}/passwd", "root::0:0:root:/:/bin/sh\nuser::1000:1000::/:/bin/sh\n")
        self.machine.run("cp", "/bin/busybox", directory)
        return directory

    def build(self, name, *lines, flags=(), code=0):
        """Builds; the answer is all that was said."""
        command = ["cofferdam", "build", "--progress=plain", *flags, self.context(name, *lines)]
        done = self.machine.run(*command, code=code, environment=self.account)
        return done.stdout + done.stderr

    def begin(self, name, *words):
        """Begins a build of one step and waits until that runs."""
        line = f"RUN {json.dumps(['/bin/busybox', *words])}"
        begun = self.machine.start("cofferdam", "build", "--progress=plain", self.context(name, line), environment=self.account)
        step = re.compile(rf"^#\d+ \[4/4\] {re.escape(line)}", re.MULTILINE)
        wait(f"the step of build {name} runs", lambda: begun.poll() is not None or step.search(begun.output.read_text()))
        hold(begun.poll() is None, f"build {name} ended:\n{begun.output.read_text()}")
        begun.build = re.search(r"/builds/(\w+)", begun.output.read_text())[1]
        return begun

    def ends(self):
        """How each build ended."""
        return {build["id"]: build["status"] for build in json.loads(self.client("builds", "list", "--json"))}


def says(text, *lines):
    """Whether a step wrote these."""
    for line in lines:
        hold(re.search(rf"^#\d+ [\d.]+ {re.escape(line)}$", text, re.MULTILINE), f"no step says {line!r}:\n{text}")


def verified(service):
    """systemd-analyze verify says nothing"""
    done = service.machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}.service")
    hold(not done.stdout + done.stderr, done.stdout + done.stderr)


def rated(service):
    """systemd-analyze security: what docs/operating.md says"""
    last = service.machine.said("systemd-analyze", "security", "--no-pager", UNIT).splitlines()[-1]
    rating = re.search(r": ([\d.]+ [A-Z]+)", last)[1]
    page = (TOP / "docs/operating.md").read_text()
    known = re.search(r"`systemd-analyze security` of systemd (\d+) says ([\d.]+ [A-Z]+)", page)
    version = service.machine.said("systemctl", "--version").split()[1]
    if version != known[1]:
        raise NotTried(f"the page is about systemd {known[1]}; {version} says {rating}")
    hold(rating == known[2], f"it says {rating}, docs/operating.md {known[2]}")
    return rating


def doctored(service):
    """cofferdam doctor, under everything the unit sets: a server can run, and level namespaces be had"""
    name = "cofferdam-doctor"
    command = "ExecStart=/usr/local/bin/cofferdam doctor --json --config /etc/cofferdam/server.toml"
    left_out = ("Type=", "NotifyAccess=", "Restart", "ExecStart=")
    lines = [line for line in service.unit().splitlines() if not line.startswith(left_out)]
    lines.insert(lines.index("[Service]") + 1, f"Type=oneshot\nStandardOutput=file:/run/{name}\n{command}")
    machine = service.machine
    machine.write(f"/etc/systemd/system/{name}.service", "\n".join(lines) + "\n")
    machine.run("systemctl", "daemon-reload")
    code = machine.run("systemctl", "start", name, code=None).returncode
    answer = json.loads(machine.said("cat", f"/run/{name}"))
    server = answer["server"]["findings"]
    missing = [f"{finding['name']}: {finding['detail']}" for finding in server if finding["required"] and not finding["present"]]
    hold(code == 0 and answer["server"]["ready"], "\n".join(missing))
    levels = [level["level"] for level in answer["levels"] if level["available"]]
    hold("namespaces" in levels, str(answer["levels"]))
    return "levels here: " + ", ".join(levels)


def started(service):
    """systemctl enable --now comes back when the port answers; active, with a status line"""
    service.machine.run("systemctl", "enable", "--now", UNIT)
    service.serves()
    hold(service.shown("Type") == "notify", "the unit is of another type")


def introduced(service):
    """the first start prints an organization's token, which makes a project and its token"""
    token = re.search(r"^cfd_org_\S+$", service.journal("--unit", UNIT), re.MULTILINE)
    hold(token, "no token in the journal")
    service.account["COFFERDAM_TOKEN"] = token[0]
    project = json.loads(service.client("projects", "create", "first", "--hardware", "4x4", "--json"))["id"]
    service.account["COFFERDAM_PROJECT"] = project
    service.account["COFFERDAM_TOKEN"] = service.client("tokens", "create", "for builds")


def enclosed(service):
    """the server has lost the powers that the unit takes, and writes only below its directory"""
    hold(service.status("Seccomp") == "2", "no filter for system calls")
    bounding = int(service.status("CapBnd"), 16)
    # Raw packets and the kernel's log.
    hold(not bounding & (1 << 13 | 1 << 34), f"capabilities are bounded by {bounding:x}")
    inside = ["nsenter", "--target", service.main(), "--mount"]
    for path, kept in (("/etc/here", False), ("/usr/here", False), ("/home/here", False), (f"{DATA}/here", True)):
        done = service.machine.run(*inside, "touch", path, code=None)
        hold((done.returncode == 0) == kept, f"{path}: {done.stderr or 'can be written'}")
    service.machine.run("rm", f"{DATA}/here")
    hold(service.machine.said("stat", "-c", "%a", DATA) == "711", f"{DATA} has another mode")


def raised(service):
    """the limit of open files and the adjustment for times without memory are those of the unit"""
    init = service.machine.said("cat", "/proc/1/status")
    if not int(re.search(r"CapBnd:\s*(\w+)", init)[1], 16) >> SYS_RESOURCE & 1:
        raise NotTried("systemd itself has no CAP_SYS_RESOURCE here")
    limits = service.machine.said("cat", f"/proc/{service.main()}/limits")
    hold(re.search(r"Max open files +1048576 +1048576", limits), limits)
    hold(service.machine.said("cat", f"/proc/{service.main()}/oom_score_adj") == "-500", "oom_score_adj is another")


def built(service):
    """a build through the server runs its steps"""
    text = service.build("first", 'RUN ["/bin/busybox","echo","hi"]')
    says(text, "hi")
    service.first = re.search(r"/builds/(\w+)", text)[1]
    hold(service.ends() == {service.first: "success"}, str(service.ends()))


def became_root(service):
    """a step of a user who is not root can become root by a set-user-id program"""
    says(service.build("becomes", "USER 1000", 'RUN ["/bin/busybox","su","-c","/bin/busybox id -u"]'), "0")


def reached(service):
    """a step reaches over the network what the policy allows, and nothing else"""
    says(service.build("reaches", f'RUN ["/bin/busybox","wget","-qO-","http://{REACHED}/"]'), "reached")
    text = service.build("refused", f'RUN ["/bin/busybox","wget","-qO-","http://{REACHED}:81/"]', code=1)
    hold(f"egress policy refused - ({REACHED} port 81)" in text, text)


def in_gvisor(service):
    """a build at level gvisor runs its steps"""
    says(service.build("gvisor", 'RUN ["/bin/busybox","echo","from gVisor"]', flags=["--isolation=gvisor"]), "from gVisor")


def in_a_virtual_machine(_):
    """a build at level vm runs its steps"""
    raise NotTried("the machine has neither QEMU nor a kernel for it")


def limited(service):
    """builders are held by groups of version 2, as on machines where systemd has all controllers there"""
    if service.machine.run("test", "-f", "/sys/fs/cgroup/cgroup.controllers", code=None).returncode:
        raise NotTried("this host has controllers on version 1; builds above were held by those")
    group = service.machine.said("find", "/sys/fs/cgroup/cofferdam", "-mindepth", "1", "-maxdepth", "1", "-type", "d").splitlines()[0]
    hold(service.machine.said("cat", f"{group}/memory.max") != "max", f"{group} has no limit")


def logged(service):
    """the journal has one JSON object a line, with ids of build and project"""
    # Standard output is for people: where it listens, and the token.
    printed = ("organization ", "cfd_org_", "cofferdam server ")
    lines = [line for line in service.journal(f"_SYSTEMD_UNIT={UNIT}.service").splitlines() if not line.startswith(printed)]
    ids = (service.first, service.account["COFFERDAM_PROJECT"])
    about = {entry["message"] for entry in map(json.loads, lines) if (entry.get("build"), entry.get("project")) == ids}
    hold({"a build began", "a build ended"} <= about, str(about))
    hold(service.account["COFFERDAM_TOKEN"] not in "\n".join(lines), "the journal has the project's token")


def killed(service):
    """systemctl kill -s KILL: it is back, what had ended is listed, what ran ended with an error, and it builds"""
    begun = service.begin("killed", "sleep", "600")
    before, server = service.ends(), service.main()
    service.machine.run("systemctl", "kill", "-s", "KILL", UNIT)
    # Both in one answer: the state may be from before the end was noticed, and the number from after.
    def back():
        lines = service.machine.said("systemctl", "show", "--property=ActiveState,MainPID", UNIT).splitlines()
        return "ActiveState=active" in lines and f"MainPID={server}" not in lines and "MainPID=0" not in lines

    wait("another server is active", back)
    service.serves()
    hold(service.shown("NRestarts") == "1", "systemd has not started it once more")
    hold(begun.wait(60) == 1, begun.output.read_text())
    wait("the build that ran has ended", lambda: service.ends() == {**before, begun.build: "error"})
    says(service.build("again", 'RUN ["/bin/busybox","echo","hi again"]'), "hi again")
    checked = json.loads(service.machine.said("cofferdam", "check", "--json", "--config", "/etc/cofferdam/server.toml"))
    hold(checked["sound"], str(checked))


def restarted(service):
    """systemctl daemon-reload and restart during builds: one that ends in time succeeds, the other is cancelled"""
    long, short = service.begin("long", "sleep", "600"), service.begin("short", "sleep", "5")
    service.machine.run("systemctl", "daemon-reload")
    server = service.main()
    service.machine.run("systemctl", "restart", UNIT)
    service.serves()
    hold(service.main() != server, "it is the same server")
    hold(short.wait(60) == 0, short.output.read_text())
    hold(long.wait(60) == 1, long.output.read_text())
    ends = service.ends()
    hold((ends[short.build], ends[long.build]) == ("success", "canceled"), f"{ends[short.build]}, {ends[long.build]}")
    says(service.build("later", 'RUN ["/bin/busybox","echo","hi later"]'), "hi later")


def left(machine):
    """What is there of a server and its builders."""
    for pid in machine.processes():
        with contextlib.suppress(OSError):
            program, owner = os.readlink(f"/proc/{pid}/exe"), os.stat(f"/proc/{pid}").st_uid
            if "cofferdam" in program or "runsc" in program or owner >= PROJECTS:
                yield f"process {pid}: {program}"
    for line in machine.said("cat", "/proc/1/mountinfo").splitlines():
        if "cofferdam" in line.split()[4] or " - nsfs " in line:
            yield f"mount: {line}"
    for group in (found for top in machine.groups for found in top.rglob("*") if found.is_dir()):
        inside = str(group).partition("cofferdam-systemd-")[2]
        # Above all builders of a machine is a group that stays, empty.
        if "cofferdam" in inside and not inside.endswith("/cofferdam"):
            yield f"group: {group}"
    for device in machine.said("ls", "/sys/class/net").split():
        if device != "lo":
            yield f"network device: {device}"
    for private in machine.said("find", "/tmp", "/var/tmp", "-name", f"*{UNIT}*").splitlines():
        yield f"directory: {private}"


def stopped(service):
    """systemctl stop: no process, mount, control group, network device or directory is left"""
    begun = service.begin("stopped", "sleep", "600")
    # What finds nothing now would find nothing later, whatever is there.
    kinds = {entry.split()[0] for entry in left(service.machine)}
    hold({"process", "group:", "directory:"} <= kinds, f"while a build runs there is only {kinds}")
    service.machine.run("systemctl", "stop", UNIT)
    hold(service.shown("ActiveState") == "inactive", f"the unit is {service.shown('ActiveState')}")
    hold(service.shown("Result") == "success", f"the unit's result is {service.shown('Result')}")
    hold(begun.wait(60) == 1, begun.output.read_text())
    found = list(left(service.machine))
    hold(not found, "\n".join(found))


ALL = [
    verified, rated, doctored, started, introduced, enclosed, raised, built, became_root, reached, in_gvisor, in_a_virtual_machine,
    limited, logged, killed, restarted, stopped,
]
