"""Kafka, PostgreSQL and Faregate as containers, in the style of testcontainers' modules.

with FaregateStack() as stack:
    use(stack.kafka_bootstrap, stack.database_url)
"""

from faregate.testing.containers.faregate import FaregateContainer
from faregate.testing.containers.kafka import KafkaContainer
from faregate.testing.containers.postgres import PostgresContainer
from faregate.testing.containers.stack import FaregateStack

__all__ = ["FaregateContainer", "FaregateStack", "KafkaContainer", "PostgresContainer"]
