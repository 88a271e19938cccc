"""One question to a builder over a unix socket, without a client program: which workers has it?

The question is as small as HTTP/2 allows, so that what is measured is the builder. It is not a client: answers are not understood,
only seen.
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_STREAM, END_HEADERS = 1, 4
PATIENCE = 30
# Of a message with nothing in it there is a flag and a length.
EMPTY = bytes(5)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def text(value):
    return bytes([len(value)]) + value.encode()


def headers(path):
    """Headers of a call, none of them compressed: method and scheme by their number, the rest in letters."""
    return (b"\x83\x86\x04" + text(path) + b"\x01" + text("localhost") + b"\x0f\x10" + text("application/grpc")
            + b"\x00" + text("te") + text("trailers"))


def receive(connection, length):
    got = b""
    while len(got) < length:
        part = connection.recv(length - len(got))
        if not part:
            raise ConnectionError("closed")
        got += part
    return got


def workers(path):
    """Returns once the builder on this socket has named a worker. OSError: it does not answer yet."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(
            PREFACE + frame(SETTINGS, 0, 0)
            + frame(HEADERS, END_HEADERS, 1, headers("/moby.buildkit.v1.Control/ListWorkers"))
            + frame(DATA, END_STREAM, 1, EMPTY))
        while True:
            head = receive(connection, 9)
            payload = receive(connection, int.from_bytes(head[:3], "big"))
            kind, flags = head[3], head[4]
            if kind == DATA and len(payload) > len(EMPTY):
                return
            if kind == GOAWAY or (kind == HEADERS and flags & END_STREAM):
                raise ConnectionError("refused")


def http(path, target):
    """Returns once an HTTP/1 server on this socket has answered well."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        if b" 200 " not in connection.recv(64):
            raise ConnectionError("refused")
