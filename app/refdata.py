"""Reference data service: instruments, accounts, restrictions, halts: `faust -A app.refdata worker`."""

from app.service import make_service

app = make_service("refdata")
