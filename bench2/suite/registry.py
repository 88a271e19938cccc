"""A registry on loopback with the base images of the workloads. It is filled here, and read by the builders that are measured."""

import gzip
import hashlib
import json
import shutil
import socket
import urllib.error
import urllib.parse
import urllib.request

from .processes import Daemon

PATIENCE = 20
# Never through a proxy.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """Runs from `with` to its end; what was pushed goes with it."""

    def __init__(self, directory, logs):
        self.directory = directory
        self.log = logs / "registry.log"
        self.address = f"127.0.0.1:{free_port()}"

    def __enter__(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        settings = self.directory / "config.yml"
        settings.write_text(
            "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: " + json.dumps(str(self.directory)) + "}}\n"
            + "http: {addr: " + json.dumps(self.address) + "}\n")
        self.daemon = Daemon(["docker-registry", "serve", settings], self.log)
        try:
            self.daemon.answers_within(PATIENCE, lambda: self.call("GET", "/v2/"), 0.05)
        except BaseException:
            self.daemon.stop()
            raise
        return self

    def __exit__(self, *_):
        self.daemon.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def call(self, method, place, data=None, kind="application/octet-stream"):
        url = urllib.parse.urljoin(f"http://{self.address}", place)
        return opener.open(urllib.request.Request(url, data, {"Content-Type": kind}, method=method), timeout=120)

    def blob(self, repository, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        begun = self.call("POST", f"/v2/{repository}/blobs/uploads/", b"").headers["Location"]
        self.call("PUT", begun + ("&" if "?" in begun else "?") + "digest=" + digest, data)
        return {"digest": digest, "size": len(data)}

    def push(self, name, tar, more=(), labels=None):
        """Pushes an image of one layer and says under which name it is."""
        data = tar.read_bytes()
        layer = self.blob(name, gzip.compress(data, 6, mtime=0)) | {"mediaType": LAYER}
        config = {
            "architecture": "amd64", "os": "linux", "created": "2023-05-18T22:34:17Z",
            "config": {"Env": [PATH, *more], "Cmd": ["/bin/sh"], "Labels": labels or {}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]},
            "history": [{"created": "2023-05-18T22:34:17Z", "created_by": "made for benchmarks"}],
        }
        described = self.blob(name, json.dumps(config).encode()) | {"mediaType": CONFIG}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": [layer]}
        self.call("PUT", f"/v2/{name}/manifests/1", json.dumps(manifest).encode(), MANIFEST)
        return f"{self.address}/{name}:1"
