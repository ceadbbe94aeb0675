"""How far compliance has come with each account. Single writer: compliance.

The table has its name from version 1, which had the recent and the open orders in the account's value.
"""

from app.codecs import TableCodec
from app.compliance import app
from app.domain.compliance import ComplianceAccount

RECENT_ORDERS = app.Table(
    "recent_orders",
    value_type=TableCodec("compliance.recent_orders", ComplianceAccount),
    help="the last order judged and the last report by account",
)
