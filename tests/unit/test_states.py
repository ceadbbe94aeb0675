"""Table states survive their JSON, whatever of what models allow a client put into the integers."""

import pytest

from app.domain.compliance import ComplianceAccount, FormerRecent
from app.domain.exchange import Session, new_intent
from app.domain.marketdata import LastPrice
from app.domain.profit import Profit
from app.domain.recent import RecentOrder
from app.domain.resting import OpenOrder
from app.domain.risk import NEW_ACCOUNT, AccountRisk, Holding
from app.engine.state.table import json_functions
from models.values import Frozen, Side, State
from tests.builders import NOW_MS, a_reservation, an_order


@pytest.mark.parametrize(
    "state",
    [
        NEW_ACCOUNT,
        AccountRisk(
            last_sequence=2**63 - 1,
            open_orders=1,
            holdings={"ETH-USD": Holding(position_lots=-3, open_buy_lots=4)},
        ),
        AccountRisk(
            holdings={
                "ETH-USD": Holding(
                    position_lots=-3,
                    profit=Profit(
                        since_venue_sequence=7,
                        cost_tick_lots=-(2**70),
                        realised_tick_lots=2**63,
                        fee_micros=-1,
                    ),
                )
            }
        ),
        a_reservation(),
        ComplianceAccount(
            recent={
                kind: FormerRecent(order_id=f"o-{kind}", submitted_at_ms=NOW_MS) for kind in ("z", "a", "m")
            },
            open_orders={"o-1": OpenOrder(symbol="BTC-USD", side=Side.SELL, price_ticks=1, rests=False)},
        ),
        ComplianceAccount(last_sequence=2**63 - 1),
        OpenOrder(symbol="BTC-USD", side=Side.BUY, price_ticks=2**63 - 1, rests=True),
        RecentOrder(kind=f"BTC-USD/buy/{2**70}@1", order_id="o-1", at_ms=NOW_MS, place=-3),
        LastPrice(symbol="BTC-USD", price_ticks=1, tick_sequence=2, observed_at_ms=NOW_MS, gaps=0),
        new_intent(an_order(quantity_lots=2**70)),
        Session(venue_sequence_last=7),
    ],
    ids=lambda state: type(state).__name__,
)
def test_a_state_comes_back_from_its_json_as_it_was(state: Frozen | State) -> None:
    decode, encode = json_functions(type(state))
    data = encode(state)

    assert decode(data) == state
    assert encode(decode(data)) == data
