"""Measures the engine against stock Faust, Quix Streams and Kafka Streams, on the same job and broker."""
