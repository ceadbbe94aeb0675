"""What each approved order still reserves, by account/order. Single writer: risk."""

from app.codecs import TableCodec
from app.domain.risk import Reservation
from app.risk import app

RESERVATIONS = app.Table(
    "reservations", value_type=TableCodec("risk.reservations", Reservation), help="open lots by account/order"
)
