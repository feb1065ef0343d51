"""The test kit: a pytest plugin, Kafka, PostgreSQL and Faregate for suites of other services."""
