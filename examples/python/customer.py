"""The life of a customer, with PyPI's depot-client and Depot's command line.

Your platform holds an organization token. Each customer gets a project: a cache, builders, images
and tokens of its own, that no other customer can reach.

depot-client speaks gRPC over TLS and knows projects, tokens and builds. Steps and logs it does not
know: those are read as JSON, which every method of the API speaks too, with nothing but urllib.

    pip install -r requirements.txt
    export DEPOT_API_URL=https://builds.example.com DEPOT_API_TOKEN=cfd_org_…
    export GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=ca.pem SSL_CERT_FILE=ca.pem   # only for a private authority
    python customer.py
"""

import json
import os
import pathlib
import subprocess
import sys
import urllib.parse
import urllib.request
from datetime import datetime

from depot_client import Client

HERE = pathlib.Path(__file__).parent
APPLICATION = sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "hello"
URL = os.environ["DEPOT_API_URL"]
TOKEN = os.environ["DEPOT_API_TOKEN"]


def call(method, **message):
    """Calls a method of the API with JSON: field names in camelCase, times as text."""
    request = urllib.request.Request(
        f"{URL}/{method}",
        data=json.dumps(message).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def build(customer, project_id):
    """Builds with a token that is good for this one build and ends with it.

    This is how to build on a machine that you trust less than your own: it never sees the
    customer's token, let alone yours.
    """
    build_id, build_token = customer.build.create_build(project_id)
    base = os.environ.get("BASE_IMAGE")
    subprocess.run(
        ["depot", "build", "--progress", "plain"]
        + (["--build-arg", f"BASE={base}"] if base else [])
        + [str(APPLICATION)],
        env=os.environ | {"DEPOT_BUILD_ID": build_id, "DEPOT_TOKEN": build_token},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        check=True,
    )


def pages(method, key, **message):
    """Every entry of a list, page by page: the last page has no token for a next one."""
    while True:
        page = call(method, **message)
        yield from page.get(key, [])
        message["pageToken"] = page.get("nextPageToken")
        if not message["pageToken"]:
            return


def seconds(step):
    """How long a step took."""
    if "completedAt" not in step:
        return 0.0
    begun, ended = (
        datetime.fromisoformat(step[at][:19] + "+00:00").timestamp() + float("0" + step[at][19:-1])
        for at in ("startedAt", "completedAt")
    )
    return ended - begun


server = urllib.parse.urlsplit(URL)
with Client(host=server.hostname, port=server.port or 443, token=TOKEN) as platform:
    # 1. A customer signs up: a project, and a token that is good for this project only. It is
    #    shown once: keep it safe.
    project_id = platform.project.create_project("customer-from-python", "us-east-1").project_id
    token = platform.create_token(project_id, "builds of this customer")
    print(f"project {project_id} (customer-from-python)")

    # 2. The customer builds, twice: the second time the cache answers.
    with Client(host=server.hostname, port=server.port or 443, token=token.secret) as customer:
        for _ in range(2):
            build(customer, project_id)

    # 3. The platform looks at the customer's builds, newest first.
    builds = list(
        pages("depot.core.v1.BuildService/ListBuilds", "builds", projectId=project_id, pageSize=1)
    )
    for made in builds:
        print(
            f"build {made['buildId']}: {made['status'].removeprefix('STATUS_').lower()}, "
            f"{made.get('cachedSteps', 0)} of {made.get('totalSteps', 0)} steps cached, "
            f"took {made.get('buildDurationSeconds', 0)} s, "
            f"saved {made.get('savedDurationSeconds', 0)} s"
        )

    # 4. What the first build did: its steps, and what they wrote.
    place = {"projectId": project_id, "buildId": builds[-1]["buildId"]}
    for step in pages("depot.build.v1.BuildService/GetBuildSteps", "buildSteps", **place):
        # An error is there or it is not: a step that went well has none, not an empty one.
        outcome = step.get("error")
        if outcome is None:
            outcome = "cached" if step["cacheState"] == "CACHE_STATE_CACHED" else "done"
        print(f"  {step['name']}  {seconds(step):.1f} s  {outcome}")
        if step.get("hasLogs"):
            method = "depot.build.v1.BuildService/GetBuildStepLogs"
            for line in pages(method, "logs", **place, buildStepDigest=step["digest"]):
                print(f"    | {line['message']}")

    # 5. A cache that misbehaves is thrown away; the customer's next build starts from nothing.
    platform.reset_project(project_id)
    print("reset")

    # 6. The customer leaves: cache, images, builds and tokens go.
    platform.delete_project(project_id)
    print("deleted")
