"""Apache Kafka in KRaft mode: the official image, with its mapped port advertised."""

from __future__ import annotations

from typing import Any, Self

from testcontainers.core.container import DockerContainer

from faregate.runtime.stack.kafka import SETTINGS, new_id
from faregate.testing.containers.engine import Ready, client_options, log_of, succeeds
from faregate.testing.containers.ports import bind

IMAGE = "apache/kafka:4.1.0"
ALIAS = "kafka"
PORT = 9094
INSIDE_PORT = 9092
_TOLD = "/tmp/advertised"  # noqa: S108 - in the container
_OURS = ("process.roles", "node.id", "controller.listener.names")


class KafkaContainer(DockerContainer):
    """One broker, controller included. Other containers of its network reach it as `kafka:9092`."""

    def __init__(self, image: str = IMAGE, **options: Any) -> None:
        """`options` go to DockerContainer (`network`, `docker_client_kw` …)."""
        super().__init__(
            image, **{"network_aliases": [ALIAS], "docker_client_kw": client_options(), **options}
        )
        bind(self, PORT)
        self.with_command(["bash", "-c", _WAIT])
        self.with_envs(
            CLUSTER_ID=new_id(),
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_LISTENERS=f"INSIDE://:{INSIDE_PORT},CONTROLLER://:9093,HOST://:{PORT}",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=(
                "INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT,HOST:PLAINTEXT"
            ),
            KAFKA_INTER_BROKER_LISTENER_NAME="INSIDE",
            # As the embedded one: no topics by accident, one copy, quick rebalances.
            **{_variable(k): v for k, v in SETTINGS.items() if k not in _OURS},
        )

    def start(self) -> Self:
        """Start it, and wait until it serves at its mapped port."""
        super().start()
        host, port = self.get_container_host_ip(), self.get_exposed_port(PORT)
        told = f"INSIDE://{ALIAS}:{INSIDE_PORT},HOST://{host}:{port}"
        tell = f"echo {told} >{_TOLD}.new && mv {_TOLD}.new {_TOLD}"
        Ready("Kafka", lambda _: succeeds(self, "bash", "-c", tell)).wait_until_ready(self)
        Ready("Kafka", lambda _: _SERVES in log_of(self)).wait_until_ready(self)
        return self

    def get_bootstrap_server(self) -> str:
        """Give the address for the machine of the tests: `host:port`."""
        return f"{self.get_container_host_ip()}:{self.get_exposed_port(PORT)}"

    def get_inside_server(self) -> str:
        """Give the address for other containers of its network."""
        return f"{ALIAS}:{INSIDE_PORT}"


_WAIT = (
    f"while [ ! -f {_TOLD} ]; do sleep 0.05; done; "
    f"export KAFKA_ADVERTISED_LISTENERS=$(cat {_TOLD}); exec /etc/kafka/docker/run"
)
_SERVES = "Kafka Server started"


def _variable(setting: str) -> str:
    """Spell a broker setting as the image wants it."""
    return "KAFKA_" + setting.upper().replace(".", "_")
