# Two images from one file:
#   docker build --target service -t scalingnote .                    serves snapshots, from Milvus too; no torch inside
#   docker build --target offline -t scalingnote-offline .            makes snapshots (CPU), also into Milvus and by Ray's workers
#   docker build --target offline --build-arg TORCH=torch==2.13.0 --build-arg TORCH_INDEX= -t scalingnote-offline:cuda .
# For a build that can be repeated bit by bit, name the base by the digest that your registry shows for it:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:... -t scalingnote .
# None is written here: it cannot be looked up where this file is tested, and would soon be one without security fixes.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# ---- the package as a wheel, built with a locked setuptools
FROM base AS wheel
WORKDIR /src
RUN python -m venv /opt/venv
COPY deploy/requirements/build.txt deploy/requirements/
RUN pip install --no-cache-dir --require-hashes -r deploy/requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY snapshot snapshot
COPY service service
COPY offline offline
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# ---- environments, without pip inside
FROM base AS service-venv
COPY deploy/requirements/service.txt /requirements/
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --require-hashes -r /requirements/service.txt
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps /wheels/*.whl

FROM base AS offline-venv
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY deploy/requirements/offline.txt /requirements/
# TORCH pins its version itself.
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --require-hashes -r /requirements/offline.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$TORCH"
COPY --from=wheel /wheels /wheels
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps /wheels/*.whl

# ---- images: no compiler, no cache, no root
FROM base AS offline
RUN useradd --uid 10001 --create-home scalingnote \
    && install --directory --owner scalingnote /work
COPY --from=offline-venv /opt/venv /opt/venv
USER 10001
WORKDIR /work
# It works and ends; whether it did well is its exit code.
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m", "offline"]
CMD ["--help"]

# Last, so that a build without --target makes the service.
FROM base AS service
RUN useradd --uid 10001 --no-create-home scalingnote
COPY --from=service-venv /opt/venv /opt/venv
ENV SCALINGNOTE_HOST=0.0.0.0 \
    SCALINGNOTE_PORT=8000 \
    SCALINGNOTE_REGISTRY=/registry
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Liveness, not readiness: a service that waits for its first snapshot is healthy, and a restart would not bring one.
# By no proxy: Docker gives its own proxies to every container, and they do not know this address.
HEALTHCHECK --interval=15s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['SCALINGNOTE_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
