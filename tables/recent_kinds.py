"""What each account has sent lately, in a bounded number of rows. Single writer: compliance."""

from app.codecs import TableCodec
from app.compliance import app
from app.domain.recent import RecentOrder

RECENT_KINDS = app.Table(
    "recent_kinds",
    value_type=TableCodec("compliance.recent_kinds", RecentOrder),
    help="the last approved orders by account/number",
)
