"""Reference data service: instruments, accounts, restrictions, halts: `faust -A app.refdata worker`."""

from app.service import make_service
from app.topology import REFDATA

app = make_service(REFDATA)
