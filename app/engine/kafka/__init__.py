"""What the engine asks of Kafka: requests, transactions, membership, topics."""
