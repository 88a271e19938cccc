"""Calls what PyPI's depot-client can do and prints, as JSON, what came back.

Environment: HOST and PORT of a server with TLS, DEPOT_API_TOKEN (of the organization), and
GRPC_DEFAULT_SSL_ROOTS_FILE_PATH with the certificate of the authority that the server's is of.
"""

import asyncio
import json
import os
import socket
import threading

import grpc
from depot_client import AsyncClient, Client
from depot_client.client import Build

HOST, PORT = os.environ["HOST"], int(os.environ["PORT"])
answers = {}


def attempt(name, call):
    """Keeps what a call gives, or why the client itself cannot make it."""
    try:
        answers[name] = call()
    except grpc.RpcError as error:
        answers[name] = {"code": error.code().name, "message": error.details()}
    except (AttributeError, TypeError) as error:
        answers[name] = type(error).__name__
    return answers[name]


def endpoint(place):
    return {
        "endpoint": place.endpoint,
        "server_name": place.server_name,
        "cert": place.cert.startswith("-----BEGIN CERTIFICATE-----"),
        "key": "PRIVATE KEY" in place.key,
        "ca_cert": place.ca_cert.startswith("-----BEGIN CERTIFICATE-----"),
    }


def synchronous():
    with Client(host=HOST, port=PORT) as client:
        # The wrapper of the client passes arguments that its service does not take; the service itself works.
        attempt("create_project", lambda: client.create_project(name="python"))
        project = client.project.create_project("python", "eu-central-1")
        answers["project"] = vars(project) | {"cache_policy": str(project.cache_policy)}
        attempt("get_project", lambda: client.get_project(project.project_id))
        attempt("update_project", lambda: client.update_project(project.project_id, name="x"))
        renamed = client.project.update_project(project.project_id, "renamed", "us-east-1")
        answers["renamed"] = [renamed.name, renamed.region_id]
        answers["listed"] = [p.name for p in client.list_projects()]

        policy = client.add_trust_policy(
            project.project_id, github={"repository_owner": "octo", "repository": "app"}
        )
        answers["trust_policies"] = [
            vars(p.github) for p in client.list_trust_policies(project.project_id)
        ]
        client.remove_trust_policy(project.project_id, policy.trust_policy_id)
        answers["trust_policies_left"] = len(client.list_trust_policies(project.project_id))

        token = client.create_token(project.project_id, "for a customer")
        client.update_token(token.token_id, "for another customer")
        answers["tokens"] = [t.description for t in client.list_tokens(project.project_id)]

        with Client(host=HOST, port=PORT, token=token.secret) as customer:
            build_id, build_token = customer.build.create_build(project.project_id)
            with Build(customer.build, build_id, build_token, HOST, PORT) as build:
                with build.get_endpoint() as place:
                    answers["endpoint"] = endpoint(place)
            answers["builds"] = [vars(b) for b in customer.list_builds(project.project_id)]
            answers["build"] = vars(customer.get_build(build_id))
            attempt("share_build", lambda: customer.share_build(build_id))
            attempt("stop_sharing_build", lambda: customer.stop_sharing_build(build_id))
            failing, _ = customer.build.create_build(project.project_id)
            attempt("finish_build_error", lambda: customer.finish_build(failing, error="it broke"))
            customer.finish_build(failing)
            client.delete_token(token.token_id)
            attempt("revoked", lambda: customer.list_builds(project.project_id))

        # This one calls api.depot.dev for builders, whatever host it was given. A proxy leads it here.
        with client.create_endpoint(project.project_id) as place:
            answers["create_endpoint"] = endpoint(place)

        client.reset_project(project.project_id)
        client.delete_project(project.project_id)
        attempt("deleted", lambda: client.list_builds(project.project_id))
        answers["listed_at_the_end"] = [p.name for p in client.list_projects()]


async def asynchronous():
    async with AsyncClient(host=HOST, port=PORT) as client:
        project = await client.project.create_project("python async", "us-east-1")
        answers["async_listed"] = [p.name for p in await client.list_projects()]
        async with client.create_endpoint(project.project_id) as place:
            answers["async_create_endpoint"] = endpoint(place)
        answers["async_builds"] = [vars(b) for b in await client.list_builds(project.project_id)]
        await client.delete_project(project.project_id)


def proxy():
    """A proxy that leads every CONNECT, wherever it wants to go, to the server. Gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()

    def accept():
        while True:
            client, _ = listener.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            answers.setdefault("proxied", head.split(b" ")[1].decode())
            server = socket.create_connection((HOST, PORT))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for pair in ((client, server), (server, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


os.environ["grpc_proxy"] = f"http://127.0.0.1:{proxy()}"
os.environ["no_grpc_proxy"] = os.environ["no_proxy"] = HOST
synchronous()
asyncio.run(asynchronous())
print(json.dumps(answers, indent=2, default=str), flush=True)
os._exit(0)
