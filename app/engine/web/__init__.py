"""The web view of a worker: its tables and its state, for people and as JSON."""
