"""What each of an account's last fills gave to whom, in a bounded number of rows. Single writer: allocation.

A trade that is broken or corrected later finds here what is to be undone.
"""

from app.allocation import app
from app.codecs import TableCodec
from app.domain.allocation import Given

GIVEN = app.Table(
    "given",
    value_type=TableCodec("allocation.given", Given),
    help="what the last fills gave to whom, by account/number",
)
