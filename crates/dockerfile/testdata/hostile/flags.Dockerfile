FROM a
RUN --mount=type=secret --mount="" --mount=, --mount==,= --network x
