"""Compliance service: restricted list, duplicate orders, self-match: `faust -A app.compliance worker`."""

from app.service import make_service
from app.topology import COMPLIANCE

app = make_service(COMPLIANCE)
