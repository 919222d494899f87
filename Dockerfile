# The whole suite in one image; docs/docker.md says how to build and run it.
# Dependencies and code are layers of their own: a change of the code leaves the large one in the cache.
# The base needs Python 3.11 or newer with venv and pip: python:3.11-slim, a CUDA runtime image with
# python3 python3-venv python3-pip, or a bare Debian with those and ca-certificates.
ARG BASE=python:3.11-slim

FROM ${BASE} AS dependencies
WORKDIR /build
# Requirements in place of the pinned torch: TORCH="torch==2.14.1+cpu torchvision==0.29.1+cpu".
ARG TORCH
ARG CONSTRAINTS=constraints.txt
COPY pyproject.toml constraints.txt ./
# pip's settings come as a secret and are gone after the line: --secret id=pip,src=pip.conf. It names its index in what it
# says, so it is quiet.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/mast \
    && python3 -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*sys.argv[1:], *p["dependencies"], *p["optional-dependencies"]["detection"], sep="\n")' ${TORCH} > wanted.txt \
    && sed ${TORCH:+-e /^torch==/d -e /^torchvision==/d} -e /^#/d "${CONSTRAINTS:-/dev/null}" > exact.txt \
    && /opt/mast/bin/python -m pip install --quiet --no-cache-dir --requirement wanted.txt --constraint exact.txt
# What Detectron2's installer consists of.
COPY mast/__init__.py mast/errors.py mast/files.py mast/
COPY eval/__init__.py eval/errors.py eval/
COPY eval/doctor/__init__.py eval/doctor/install.py eval/doctor/detectron2.sha256 eval/doctor/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/mast/bin/python -m eval.doctor.install \
    && /opt/mast/bin/python -m pip uninstall --quiet --yes pip

FROM dependencies AS code
COPY . .
# Records name the state of the code; there is no git in here, so the build says it.
ARG REVISION
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    MAST_REVISION="${REVISION}" python3 -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir dist . \
    && python3 -m pip --python /opt/mast/bin/python install --quiet --no-cache-dir --no-deps --no-index \
        --prefix /opt/code dist/*.whl

FROM ${BASE}
RUN useradd --create-home --uid 1000 mast && mkdir /data /out && chown mast:mast /out
COPY --from=dependencies /opt/mast /opt/mast
COPY --from=code /opt/code /opt/mast
ARG REVISION
LABEL org.opencontainers.image.title="mast-transfer" \
      org.opencontainers.image.description="Pretrain a backbone and measure how it transfers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# Nothing is written outside of /out and /tmp, so the root may be read-only.
ENV PATH=/opt/mast/bin:${PATH} \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1
USER mast
# Images and annotations are mounted at /data (read-only will do); everything that is written comes out in /out.
WORKDIR /out
HEALTHCHECK --interval=10m --timeout=2m CMD ["mast", "doctor", "--quick"]
ENTRYPOINT ["mast"]
CMD ["--help"]
