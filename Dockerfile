# syntax=docker/dockerfile:1
# The image of PixTools. Build it with `docker build --target cpu .` or `docker build --target gpu .`; docs/docker.md
# explains how to run it.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /srv/pixtools
RUN python -m venv /opt/pixtools
ENV PATH=/opt/pixtools/bin:$PATH
# The packages come first: Docker builds this layer again only if the lock file changes.
COPY requirements/local.txt requirements/local.txt
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/local.txt
COPY . .
RUN pip install --no-cache-dir --no-index --no-build-isolation -e '.[local]'

FROM python:3.11.14-slim-bookworm AS cpu
# KubeRay checks the health of a node with wget. No version is pinned, because Debian keeps only the newest security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /var/lib/pixtools pixtools
COPY --from=build /opt/pixtools /opt/pixtools
COPY --from=build /srv/pixtools /srv/pixtools
ENV PATH=/opt/pixtools/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PIXTOOLS_HOME=/var/lib/pixtools/home
WORKDIR /var/lib/pixtools
USER 10001
EXPOSE 8000 9000
HEALTHCHECK --start-period=120s --interval=15s --timeout=5s \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/api/readyz').raise_for_status()"]
ENTRYPOINT ["pixtools"]
CMD ["up"]

# PyTorch is not in the lock file, because each version of CUDA has a build of its own.
FROM cpu AS gpu
USER 0
RUN pip install --no-cache-dir --no-build-isolation -e '/srv/pixtools[gpu]'
USER 10001
