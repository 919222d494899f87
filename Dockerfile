# The whole suite in one image; docs/docker.md says how to build and run it.
# The base needs Python 3.11 or newer with venv and pip: python:3.11-slim, or a bare Debian with
# python3, python3-venv, python3-pip and ca-certificates.
ARG BASE=python:3.11-slim
FROM ${BASE}

RUN command -v make >/dev/null || { \
        apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*; \
    }

RUN useradd --create-home --uid 1000 mast \
    && mkdir -p /opt/mast /data /out \
    && chown mast:mast /opt/mast /out
USER mast
WORKDIR /opt/mast
COPY --chown=mast:mast . .

# pip's settings, for the build alone: --build-arg PIP_INDEX_URL=... and the like.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG CONSTRAINTS=constraints.txt
RUN PIP_NO_CACHE_DIR=1 make setup CONSTRAINTS="${CONSTRAINTS}"

# Records name the state of the code; there is no git in here, so the build says it.
ARG REVISION=unknown
ENV MAST_REVISION=${REVISION} \
    MPLCONFIGDIR=/tmp/matplotlib
LABEL org.opencontainers.image.title="mast-transfer" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# Images and annotations go to /data (read-only will do), everything that is written comes out in /out.
VOLUME ["/data", "/out"]
WORKDIR /out
ENTRYPOINT ["/opt/mast/.venv/bin/mast"]
CMD ["--help"]
