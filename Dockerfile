# One image for every process and every command:
#   docker build -t faregate .
#   docker run --rm -e FAREGATE_KAFKA -e FAREGATE_DATABASE faregate run deduction
FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /tools \
 && /tools/bin/pip install --quiet "hatchling>=1.27" "uv>=0.9" \
 && python -m venv --without-pip /opt/faregate
# The dependencies of uv.lock, checked by hash. They change less often than the code.
COPY pyproject.toml uv.lock ./
RUN /tools/bin/uv export --frozen --quiet --no-dev --no-emit-project --extra gateway --extra otel \
      --output-file /tmp/requirements.txt \
 && /tools/bin/pip --python /opt/faregate/bin/python install --quiet --require-hashes \
      --only-binary :all: --requirement /tmp/requirements.txt
COPY . .
RUN /tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/dist . \
 && /tools/bin/pip --python /opt/faregate/bin/python install --quiet --no-deps --no-index \
      /tmp/dist/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /home/faregate faregate
COPY --from=build /opt/faregate /opt/faregate
ENV PATH=/opt/faregate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER faregate
WORKDIR /home/faregate
# SIGTERM: a process finishes what it has in hand within ten seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["faregate"]
CMD ["--help"]
