# The gateway alone, for a Redis or Valkey server of your own:
#   docker run -p 8000:8000 -e PLAYHEAD_STORE__URL=redis://redis:6379 playhead
# Without that address it starts its embedded server on /data: mount a volume there.

ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source

# Dependencies first: they change less often than the source.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/playhead \
    && python -m pip --python /opt/playhead install --require-hashes -r requirements.lock \
    && python -m pip install --require-hashes -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY store store
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /opt/playhead install --no-deps /wheels/*.whl

FROM python:${PYTHON_VERSION}-slim

LABEL org.opencontainers.image.title="Playhead" \
      org.opencontainers.image.description="Durable Server-Sent Events over Redis Streams" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN groupadd --system --gid 10001 playhead \
    && useradd --system --uid 10001 --gid playhead --no-create-home --home-dir /data playhead \
    && install --directory --owner playhead --group playhead --mode 0700 /data

COPY --from=build /opt/playhead /opt/playhead

ENV PATH=/opt/playhead/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PLAYHEAD_APPLICATION__HOST=0.0.0.0 \
    PLAYHEAD_APPLICATION__PORT=8000 \
    PLAYHEAD_STORE__DATA_DIR=/data

# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PLAYHEAD_APPLICATION__PORT'] + '/health', timeout=4)"]

ENTRYPOINT ["playhead", "serve"]
