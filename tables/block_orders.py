"""How far each order with fills is allocated, until it ends, by account/order. Single writer: allocation."""

from app.allocation import app
from app.codecs import TableCodec
from app.domain.allocation import BlockOrder

BLOCK_ORDERS = app.Table(
    "block_orders",
    value_type=TableCodec("allocation.block_orders", BlockOrder),
    help="what is allocated of open orders, and what waits for their end, by account/order",
)
