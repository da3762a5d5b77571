# syntax=docker/dockerfile:1
# One image for every command: `segment-counter` (serve, migrate, archive, refresh) and `segment-counter-operator` (run, crds).
#
#   docker build -t segment-counter:0.1.0 .
#
# Both bases can be named, for a mirror or an air-gapped builder. The one that runs needs glibc, of a version not older than that of
# the one that builds, and libgcc; certificates of authorities for whoever talks TLS to a database.
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /build
# What may come in stands in .dockerignore. rust-toolchain.toml may not: it would fetch a second toolchain.
COPY . .
# The caches keep what is compiled from one build to the next and are no part of a layer, so the binaries are taken out at once.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    cargo build --release --locked --bins \
    && install -D -t /out/usr/local/bin target/release/segment-counter target/release/segment-counter-operator \
    && install -D -m 0644 -t /out/licenses LICENSE \
    && install -d -m 0750 -o 65532 -g 65532 /out/var/lib/segment-counter

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="segment-counter" \
      org.opencontainers.image.description="Exact counts of the users in a segment: the API, its jobs and their operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
# A number, so that a kubelet can tell that it is not root.
USER 65532:65532
# Where the embedded ledger's file lies when nothing else is configured. In Kubernetes nothing is written here.
WORKDIR /var/lib/segment-counter
EXPOSE 8080 9090
ENTRYPOINT ["/usr/local/bin/segment-counter"]
CMD ["serve"]
