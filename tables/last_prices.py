"""The newest tick of each symbol. Single writer: marketdata."""

from app.codecs import TableCodec
from app.domain.marketdata import LastPrice
from app.marketdata import app

LAST_PRICES = app.Table(
    "last_prices", value_type=TableCodec("marketdata.last_prices", LastPrice), help="newest tick by symbol"
)
