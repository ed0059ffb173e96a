# Both images of the project: docker build --target operator (or tools) .

FROM rust:1-slim-bookworm AS build
WORKDIR /src
# Cargo.toml names tests and benchmarks, and cargo looks whether they are there.
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=target \
    cargo build --release --locked && \
    install -D target/release/synapse-keeper /image/usr/local/bin/synapse-keeper
# The program, the shared libraries it is linked to, the certificate authorities, a user: nothing else.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates && \
    ldd /image/usr/local/bin/synapse-keeper | grep -o '/[^ ]*' | xargs cp --parents --dereference --target-directory=/image && \
    cp --parents --dereference /etc/ssl/certs/ca-certificates.crt /image && \
    echo 'keeper:x:65532:65532::/:/sbin/nologin' >/image/etc/passwd && \
    echo 'keeper:x:65532:' >/image/etc/group

FROM scratch AS operator
COPY --from=build /image /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/synapse-keeper"]

FROM golang:1-bookworm AS restic
COPY tests/storage /src
RUN CGO_ENABLED=0 go build -C /src -trimpath -ldflags '-s -w' -o /usr/local/bin/restic github.com/restic/restic/cmd/restic

# Where Jobs run: with restic, and the client programs of every PostgreSQL that is supported, side by
# side in /usr/lib/postgresql.
FROM debian:bookworm-slim AS tools
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates postgresql-common && \
    bash /usr/share/postgresql-common/pgdg/*.sh -y && \
    apt-get install --yes --no-install-recommends \
        postgresql-client-14 postgresql-client-15 postgresql-client-16 postgresql-client-17 postgresql-client-18 && \
    rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 65532 keeper && \
    useradd --uid 65532 --gid 65532 --home-dir / --no-create-home --shell /usr/sbin/nologin keeper
COPY --from=restic /usr/local/bin/restic /usr/local/bin/
COPY --from=build /image/usr/local/bin/synapse-keeper /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/synapse-keeper"]
