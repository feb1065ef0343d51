"""A process of Faregate as a container, and the image that it is made of."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from docker.errors import BuildError, ImageNotFound
from testcontainers.core.container import DockerContainer

from faregate.testing.containers.engine import Ready, client_options, log_of, make_client
from faregate.testing.processes import ALL_IN_ONE, is_ready

BASE = "python:3.11-slim"
_DOCKERFILE = f"""FROM {BASE}
RUN useradd --system --uid 10001 --create-home --home-dir /home/faregate faregate \\
 && python -m venv /opt/faregate
COPY . /tmp/wheel/
RUN /opt/faregate/bin/pip install --quiet --no-cache-dir --disable-pip-version-check \\
      --retries 10 {{wanted}} \\
 && rm -rf /tmp/wheel
ENV PATH=/opt/faregate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER faregate
WORKDIR /home/faregate
STOPSIGNAL SIGTERM
ENTRYPOINT ["faregate"]
CMD ["--help"]
"""


class ImageNotBuilt(Exception):
    """There is no image of Faregate and none could be built; the message ends with pip's."""


class FaregateContainer(DockerContainer):
    """One process of Faregate (`deduction`; `relay+sweeper`: one that does the work of both).

    By default it does everything. `env` names Kafka and the database as this container reaches
    them: FAREGATE_KAFKA, FAREGATE_DATABASE. The topics and tables must exist.
    """

    def __init__(
        self, image: str, name: str = ALL_IN_ONE, *, env: Mapping[str, str], **options: Any
    ) -> None:
        """`options` go to DockerContainer (`network`, `docker_client_kw` …)."""
        # With an init process: as number 1 of its container it could not kill itself (chaos).
        options = {"init": True, "docker_client_kw": client_options(), **options}
        super().__init__(image, env={"FAREGATE_LOG_FORMAT": "json", **env}, **options)
        self.process = name
        self.with_command(["run", *name.split("+")])
        prefix = env.get("FAREGATE_TOPIC_PREFIX", "")
        self.waiting_for(Ready(name, lambda here: is_ready(name, log_of(here), prefix)))

    def launch(self) -> Self:
        """Start it without waiting until it is at work."""
        waiting, self._wait_strategy = self._wait_strategy, None
        try:
            return self.start()
        finally:
            self._wait_strategy = waiting

    def log(self) -> str:
        """Give what it has logged."""
        text: bytes = self.get_wrapped_container().logs()
        return text.decode(errors="replace")


def ensure_image(image: str | None = None, wheel: str | None = None) -> str:
    """Give the name of an image of Faregate that the engine has; build it where it has none.

    `wheel` is the file to install; the default is the installed version, from the package index.
    Raises ImageNotBuilt.
    """
    version = importlib.metadata.version("faregate")
    name = image or f"faregate-testing:{version}{_content(wheel)}"
    client = make_client()
    try:
        try:
            client.images.get(name)
        except ImageNotFound:
            _build(client, name, wheel, version)
    finally:
        client.close()
    return name


def _content(wheel: str | None) -> str:
    """Tell wheels of the same version apart."""
    if not wheel:
        return ""
    try:
        return "-" + sha256(Path(wheel).read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise ImageNotBuilt(f"the wheel {wheel} cannot be read: {error.strerror}") from error


def _build(client: Any, name: str, wheel: str | None, version: str) -> None:
    wanted = f"'faregate[gateway]=={version}'"
    with tempfile.TemporaryDirectory(prefix="faregate-image-") as context:
        if wheel:
            file = Path(wheel)
            shutil.copy(file, context)
            wanted = f"'/tmp/wheel/{file.name}[gateway]'"
        Path(context, "Dockerfile").write_text(_DOCKERFILE.format(wanted=wanted))
        try:
            client.images.build(path=context, tag=name, rm=True, forcerm=True)
        except BuildError as error:
            said = "".join(str(line.get("stream", "")) for line in error.build_log)
            raise ImageNotBuilt(
                f"the image {name} could not be built from {wheel or wanted}; name one with "
                f"--faregate-image, or a wheel with --faregate-wheel:\n{said[-2000:]}"
            ) from error
