# syntax=docker/dockerfile:1
# check=skip=JSONArgsRecommended

# version of the base image
ARG version=3.20
ARG TARGET

FROM --platform=$BUILDPLATFORM alpine:${version} AS build
# jobs How many to run
ARG jobs=4 verbose
ENV PATH=/opt/bin:$PATH \
    # between the lines
    MODE="fast one"
LABEL org.example.title='An example' org.example.jobs=$jobs
SHELL ["/bin/ash", "-eo", "pipefail", "-c"]
WORKDIR /src
COPY --link --chown=1000:1000 --exclude=*.md --exclude=docs . .
ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 https://example.org/a.tar /a.tar
RUN --mount=type=cache,target=/root/.cache,sharing=locked \
    --mount=type=secret,id=token,env=TOKEN \
    --network=none \
    make -j"$jobs" \
      all
RUN ["make", "install"]

FROM scratch
COPY --from=build --parents /src/./out /
EXPOSE 8080/tcp 53/udp 9000-9002
VOLUME ["/data", "/my logs"]
USER 1000:1000
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --retries=2 CMD ["/bin/check"]
ONBUILD COPY . /app
ENTRYPOINT ["/bin/run"]
CMD -- --help
