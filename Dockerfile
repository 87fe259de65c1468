# syntax=docker/dockerfile:1

# The image holds the binary and a CA bundle, nothing else: no shell, no package manager, no libc.
#
#   docker build -t headwater .
#   docker run -p 8443:8443 -v "$PWD/conf:/etc/headwater/conf:ro" -v "$PWD/certs:/etc/headwater/certs:ro" headwater

# Alpine's toolchain links statically against musl.
FROM rust:1.95-alpine AS build
# For the two libraries in C: aws-lc and jemalloc.
RUN apk add --no-cache build-base ca-certificates cmake linux-headers
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# Named in the manifest, so cargo wants to see them.
COPY benches benches
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin headwater \
    && strip -o /headwater target/release/headwater

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /headwater /headwater
# The default configuration is conf/headwater.toml below this folder.
WORKDIR /etc/headwater
# No name is needed for it: there is no /etc/passwd.
USER 65532:65532
EXPOSE 8080 8443 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/headwater", "ready"]
ENTRYPOINT ["/headwater"]
CMD ["run"]
