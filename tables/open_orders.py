"""What each approved order is until it ends, by account/order. Single writer: compliance."""

from app.codecs import TableCodec
from app.compliance import app
from app.domain.resting import OpenOrder

OPEN_ORDERS = app.Table(
    "open_orders",
    value_type=TableCodec("compliance.open_orders", OpenOrder),
    help="open orders by account/order",
)
