"""The limits in force of each account. Single writer: risk, from the topic `risk-limits`."""

from app.risk import app
from models.commands import SetRiskLimits

LIMITS = app.Table("risk_limits", value_type=SetRiskLimits, help="limits in force by account")
