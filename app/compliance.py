"""Compliance service: restricted list, duplicate orders, self-match: `faust -A app.compliance worker`."""

from app.service import make_service

app = make_service("compliance")
