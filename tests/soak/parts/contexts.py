"""What is built: Dockerfiles, and directories with content that is another one each time where that is wanted."""

# Written by steps, random so that no compressor makes it small.
BIG = 3_000_000

WHOLE = """
FROM {base}
WORKDIR /app
COPY data.bin .
RUN --mount=type=secret,id=word sha256sum /run/secrets/word > /word
RUN head -c {big} /dev/urandom > /big && cat data.bin >> /big
RUN --mount=type=cache,target=/cache cp /big /cache/{slot} && ls -l /cache
RUN for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; sha256sum /big > sum
"""

STAGES = """
FROM {base} AS tools
RUN mkdir /out && echo a tool > /out/tool
FROM {base} AS left
WORKDIR /src
COPY src/ .
RUN --mount=type=cache,target=/cache cp -r . /cache/ && cat * > /left
FROM {base} AS right
COPY data.bin /data.bin
RUN sha256sum /data.bin > /right && head -c 1000000 /dev/urandom >> /right
FROM {base}
COPY --from=tools /out /out
COPY --from=left /left /left
COPY --from=right /right /right
RUN cat /out/tool /left > /all
"""

SMALL = """
FROM {base}
COPY data.bin /data.bin
RUN sha256sum /data.bin > /sum
ENV SUM=/sum
"""

FAILING = """
FROM {base}
COPY data.bin /data.bin
RUN echo before; head -c 200000 /dev/urandom > /half; exit 7
"""

# What it says is not what the Dockerfile says: whoever waits for it waits for the step.
SLEEPING = """
FROM {base}
RUN head -c 500000 /dev/urandom > /half; (sleep 3601 & sleep 3602 &); echo under-$((40 + 2)); sleep 3600
"""
UNDER_WAY = "under-42"

FILES = 40


def noise(directory, random, size):
    """A file that was never there before."""
    (directory / "data.bin").write_bytes(random.randbytes(size))


def dockerfile(directory, text, **values):
    (directory / "Dockerfile").write_text(text.lstrip().format(**values))
    return directory


def fresh(directory, text, random, base, size=300_000):
    """A context that no build has had."""
    context = directory / "context"
    context.mkdir()
    noise(context, random, size)
    return dockerfile(context, text, base=base, big=BIG, slot=random.randrange(2))


def lasting(directory, random, base):
    """A context of several stages that is kept, made when it is first asked for."""
    if not (directory / "Dockerfile").exists():
        (directory / "src").mkdir(parents=True)
        for number in range(FILES):
            (directory / f"src/file{number}").write_bytes(random.randbytes(2000))
        noise(directory, random, 2_000_000)
        dockerfile(directory, STAGES, base=base)
    return directory


def change(directory, random):
    """Changes one file of many, and every other time the large one."""
    (directory / f"src/file{random.randrange(FILES)}").write_bytes(random.randbytes(2000))
    if random.random() < 0.5:
        noise(directory, random, 2_000_000)


def app(directory, random):
    """An app for buildpacks."""
    app = directory / "app"
    app.mkdir()
    (app / "greeting.txt").write_text(f"hello {random.randrange(10**9)}\n")
    (app / "data.bin").write_bytes(random.randbytes(200_000))
    return app
