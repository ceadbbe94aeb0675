"""The outside world: replays real trades and lets deterministic trading accounts react with orders."""
