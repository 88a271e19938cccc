"""Questions to a builder over a unix socket, without a client program: which workers has it, and how many records its cache?

The first is as small as HTTP/2 allows, so that what is measured is the builder, and its answer is not understood, only seen.
"""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
# An answer of any length comes without being asked for its next part: the window of streams, and what the connection's is short of it.
WINDOW = 2**31 - 1
WHOLE = struct.pack(">HI", 4, WINDOW)
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


def question(method):
    """A call of a method with a message that has nothing in it."""
    return frame(HEADERS, END_HEADERS, 1, headers(f"/moby.buildkit.v1.Control/{method}")) + frame(DATA, END_STREAM, 1, EMPTY)


def next_frame(connection):
    """Kind, flags and content."""
    head = receive(connection, 9)
    return head[3], head[4], receive(connection, int.from_bytes(head[:3], "big"))


def workers(path):
    """Returns once the builder on this socket has named a worker. OSError: it does not answer yet."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + question("ListWorkers"))
        while True:
            kind, flags, payload = next_frame(connection)
            if kind == DATA and len(payload) > len(EMPTY):
                return
            if kind == GOAWAY or (kind == HEADERS and flags & END_STREAM):
                raise ConnectionError("refused")


def varint(message, at):
    """A number of a message, and where what follows it begins."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def parts(message):
    """How many parts an answer has that is nothing but a list."""
    count = at = 0
    while at < len(message):
        key, at = varint(message, at)
        if key != 1 << 3 | 2:
            raise ConnectionError("not a list")
        length, at = varint(message, at)
        count, at = count + 1, at + length
    return count


def records(path, patience=PATIENCE):
    """How many records a builder says that its cache has. OSError: it does not say."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(str(path))
        connection.sendall(
            PREFACE + frame(SETTINGS, 0, 0, WHOLE) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65_535))
            + question("DiskUsage"))
        answer = bytearray()
        while True:
            kind, flags, payload = next_frame(connection)
            if kind == DATA:
                answer += payload
            elif kind == GOAWAY:
                raise ConnectionError("refused")
            elif kind in (SETTINGS, PING) and not flags & ACK:
                connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                break
        # Before the message there are whether it is compressed, which was not allowed, and its length.
        if len(answer) < len(EMPTY) or len(answer) - len(EMPTY) != int.from_bytes(answer[1:5], "big"):
            raise ConnectionError("refused")
        return parts(memoryview(answer)[5:])


def http(path, target):
    """Returns once an HTTP/1 server on this socket has answered well."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        if b" 200 " not in connection.recv(64):
            raise ConnectionError("refused")
