"""Operators' commands: what they send, what they show, and what the services answer."""
