"""How far the reports of each account are read. Single writer: allocation."""

from app.allocation import app
from app.codecs import TableCodec
from app.domain.allocation import BlockAccount

BLOCK_ACCOUNTS = app.Table(
    "block_accounts",
    value_type=TableCodec("allocation.block_accounts", BlockAccount),
    help="the last report, and how many fills are allocated, by account",
)
