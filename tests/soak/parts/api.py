"""The server's API as a client without any library calls it: JSON over HTTP, one connection a call."""

import json
import urllib.error
import urllib.request

PATIENCE = 60
# Never through a proxy.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Refused(Exception):
    """An answer that is an error, or none at all."""

    def __init__(self, method, code, message):
        super().__init__(f"{method}: {code}: {message}")
        self.code = code


class Api:
    """A server, with the token of its organization."""

    def __init__(self, url, token):
        self.url = url
        self.token = token

    def call(self, method, message, token=None):
        """The answer of a method such as `depot.core.v1.ProjectService/ListProjects`."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token or self.token}"}
        request = urllib.request.Request(f"{self.url}/{method}", json.dumps(message).encode(), headers, method="POST")
        try:
            with opener.open(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise refused(method, error.code, error.read(100_000)) from None
        except (OSError, ValueError) as error:
            raise Refused(method, "no answer", error) from error

    def page(self, path):
        """A page, which has to be there."""
        url = path if path.startswith("http") else self.url + path
        try:
            with opener.open(url, timeout=PATIENCE) as answer:
                return answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(path, error.code, error.read(1000).decode(errors="replace")) from None
        except OSError as error:
            raise Refused(path, "no answer", error) from error

    def figures(self):
        """What `/metrics` says: builds that run, builds that ended by status, steps, connections."""
        return figures(self.page("/metrics"))


def refused(method, status, body):
    try:
        said = json.loads(body)
        return Refused(method, said["code"], said.get("message", ""))
    except (ValueError, KeyError, TypeError):
        return Refused(method, status, body[:300].decode(errors="replace"))


def figures(text):
    """Prometheus' text as numbers by their whole names."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name and not line.startswith("#"):
            found[name] = float(value)
    return found


def total(known, name):
    """The sum of a figure over all its labels."""
    return sum(value for key, value in known.items() if key == name or key.startswith(name + "{"))
