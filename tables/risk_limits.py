"""The limits in force of each account. Single writer: risk, from the topic `risk-limits`."""

from app.codecs import TableCodec
from app.risk import app
from models.commands import SetRiskLimits

LIMITS = app.Table(
    "risk_limits", value_type=TableCodec("risk.risk_limits", SetRiskLimits), help="limits in force by account"
)
