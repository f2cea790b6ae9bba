# One image for web, scheduler, worker, runner and every `kat` command; its tag is the release.
#     docker build --build-arg KAT_RELEASE=0.1.0 --tag kattegat:0.1.0 .
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
# Wheels only: nothing of others is compiled here. pip is of no use in the finished image.
RUN python -m venv /opt/kattegat \
    && /opt/kattegat/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        --constraint constraints.txt hatchling \
    && /opt/kattegat/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation \
        --wheel-dir /wheel . \
    && python -m venv --clear /opt/kattegat \
    && /opt/kattegat/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        --constraint constraints.txt /wheel/kattegat-*.whl \
    && /opt/kattegat/bin/python -m compileall -q /opt/kattegat/lib \
    && /opt/kattegat/bin/pip uninstall --yes --quiet pip setuptools

FROM ${PYTHON_IMAGE}
ARG KAT_RELEASE
LABEL org.opencontainers.image.title="Kattegat" \
      org.opencontainers.image.description="Watches over the systems of one or many organisations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${KAT_RELEASE}"
# nmap is the one external program that scanners use. The folders are made here because an empty named volume takes
# over their owner.
RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends nmap \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 kattegat \
    && useradd --system --uid 10001 --gid kattegat --home-dir /var/lib/kattegat --shell /usr/sbin/nologin kattegat \
    && install -d -o kattegat -g kattegat -m 0700 \
        /var/lib/kattegat /var/lib/kattegat-runner /run/kattegat /run/kattegat-token
COPY --from=build /opt/kattegat /opt/kattegat
COPY deploy/container/kat /usr/local/bin/kat
# The tag must be the release that is inside: going back means naming an older tag.
RUN installed=$(/opt/kattegat/bin/python -c 'from importlib.metadata import version; print(version("kattegat"))') \
    && if [ "$installed" != "$KAT_RELEASE" ]; then \
        echo "This is release $installed: build it with KAT_RELEASE=$installed, not ${KAT_RELEASE:-nothing}." >&2; \
        exit 1; \
    fi
ENV KAT_DATA_DIR=/var/lib/kattegat KAT_LISTEN=0.0.0.0 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER kattegat
WORKDIR /var/lib/kattegat
EXPOSE 8480
ENTRYPOINT ["/usr/local/bin/kat"]
CMD ["process", "web"]
# For the web process; compose.yaml has that of the others.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["/usr/local/bin/kat", "process", "health", "web"]
