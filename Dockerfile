# One image for the code server, the webserver, the daemon and every run.
#
#   libraries    what requirements.lock names; built again when the lock changes
#   application  the package, and the bytecode of what a day's run imports
#   (last)       both, without the tools that built them
#
# No HEALTHCHECK here: what is healthy differs by service, and a run is not one; see docker-compose.yml.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG POSTGRES_IMAGE=postgres:15-bookworm

FROM ${POSTGRES_IMAGE} AS postgres

FROM ${PYTHON_IMAGE} AS libraries
ARG UV_VERSION=0.13.9
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends binutils \
 && python3 -m venv /opt/uv \
 && /opt/uv/bin/pip install --quiet --no-cache-dir "uv==${UV_VERSION}" \
 && python3 -m venv --without-pip /opt/libraries
COPY requirements.lock /build/
# What is taken away, 270 MB: the libraries' own tests, headers and stubs; source maps; Arrow's Flight, the browser half
# of plotly and pictures, which nothing here uses; symbols. Libraries in *.libs were patched when their wheels were
# made, and do not survive `strip`.
RUN VIRTUAL_ENV=/opt/libraries /opt/uv/bin/uv pip sync --quiet --no-cache /build/requirements.lock \
 && cd /opt/libraries/lib/python3*/site-packages \
 && find . -type d -name tests -prune -exec rm -rf {} + \
 && find . -type f -regex '.*\.\(map\|pyi\|pyx\|pxd\|[ch]\|hpp\)' -delete \
 && rm -rf pyarrow/libarrow_flight* pyarrow/_flight* plotly/package_data plotly/labextension *.dist-info/sboms \
      great_expectations/render/view/static/images \
 && find . -name "*.so*" -type f -not -path "*.libs/*" -exec strip --strip-unneeded {} +

FROM libraries AS application
COPY pyproject.toml README.md LICENSE /build/
COPY trading_dagster /build/trading_dagster
RUN /opt/uv/bin/uv pip install --quiet --no-cache --no-deps --python /opt/libraries/bin/python \
    --target /opt/application /build \
 && chmod -R a+rX /opt/application
ENV PATH=/opt/application/bin:/opt/libraries/bin:$PATH \
    PYTHONPATH=/opt/application \
    PYTHONPYCACHEPREFIX=/opt/bytecode
# A session of the sample: an image that cannot run it is not built, and what it imports is compiled, and nothing else.
RUN cd /tmp && TRADING_DATA_DIR=/tmp/trading DAGSTER_HOME=/tmp/trading/dagster DAGSTER_DISABLE_TELEMETRY=1 \
    trading run --session 2022-12-28 \
 && dagster definitions validate --module-name trading_dagster.definitions \
 && python -c "import dagster._daemon.cli, dagster_webserver.cli" \
 && python -c "import dagster_celery.app, dagster_docker, dagster_postgres, prometheus_client, psycopg2" \
 && python -c "import alpaca.data, alpaca.trading.client, yfinance" \
 && rm -rf /tmp/trading

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="trading-dagster" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends libpq5 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
 && useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trading \
 && install -d -o trading -g trading -m 770 /data /backups
# of the server's own version: a dump by an older pg_dump is refused
COPY --from=postgres /usr/lib/postgresql/*/bin/pg_dump /usr/lib/postgresql/*/bin/pg_restore /usr/local/bin/
COPY --from=libraries /opt/libraries /opt/libraries
COPY --from=application /opt/application /opt/application
COPY --from=application /opt/bytecode /opt/bytecode
COPY dagster.yaml workspace.yaml /opt/dagster/
COPY deploy/webserver/dagster.yaml /opt/dagster/webserver/
# whoever cloned the repository may have kept others from reading it
RUN chmod -R a+rX /opt/dagster
# The root file system is read-only where it runs: all that is written goes to /data, and for the moment to /tmp.
ENV PATH=/opt/application/bin:/opt/libraries/bin:$PATH \
    PYTHONPATH=/opt/application \
    PYTHONPYCACHEPREFIX=/opt/bytecode \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/opt/dagster \
    DAGSTER_DISABLE_TELEMETRY=1 \
    HOME=/tmp \
    TRADING_DATA_DIR=/data
WORKDIR /opt/dagster
USER trading
CMD ["trading", "--help"]
