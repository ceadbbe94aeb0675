"""Every counterparty as it is in force. Single writer: refdata."""

from app.refdata import app
from models.events import CounterpartyRegistered

COUNTERPARTIES = app.Table("counterparties", value_type=CounterpartyRegistered, help="counterparties by id")
