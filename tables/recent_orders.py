"""What each account has sent lately and has open. Single writer: compliance."""

from app.codecs import TableCodec
from app.compliance import app
from app.domain.compliance import ComplianceAccount

RECENT_ORDERS = app.Table(
    "recent_orders",
    value_type=TableCodec("compliance.recent_orders", ComplianceAccount),
    help="recent and open orders by account",
)
