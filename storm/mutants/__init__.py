"""Planted bugs: what the engine and the services would be if somebody got them wrong."""
