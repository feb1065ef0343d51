"""`faregate demo`: the whole story on real Kafka and PostgreSQL, told on the screen and checked."""
