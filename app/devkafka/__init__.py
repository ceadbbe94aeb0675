"""The development Kafka: one real node and its Java runtime, downloaded, checked and run as a child."""
