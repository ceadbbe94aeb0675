"""Cancel and replace, broken one by one."""

from typing import Any

from msgspec.structs import replace

from app.domain import compliance, requests
from app.domain.resting import OpenOrder
from app.domain.risk import AccountRisk, Reservation
from app.engine.topics import TopicSpec
from models.events import OrderReplaced
from storm.mutants.mutant import Mutant
from storm.mutants.patching import Patch
from storm.mutants.pipeline import SERVICES, planter

REQUESTS: dict[str, Mutant] = {}

mutant = planter(REQUESTS)


@mutant("I3", "risk")
def old_leg_not_reduced(patch: Patch) -> None:
    """A replaced order is open with its whole new quantity, though some of the old one was filled."""
    apply = requests.apply_answer

    def whole(account: AccountRisk, reservation: Reservation, answer: Any) -> Any:
        account, after = apply(account, reservation, answer)
        if isinstance(answer, OrderReplaced) and after is not None:
            after = replace(after, open_lots=answer.quantity_lots)
        return account, after

    patch.setattr(requests, "apply_answer", whole)


@mutant("I3", "risk")
def nothing_reserved_for_a_replace(patch: Patch) -> None:
    """While a replace is pending only the old quantity is reserved."""
    apply = requests.apply_replace

    def as_before(account: AccountRisk, reservation: Reservation | None, approval: Any) -> Any:
        after, reserved = apply(account, reservation, approval)
        return replace(after, holdings=account.holdings), reserved

    patch.setattr(requests, "apply_replace", as_before)


@mutant("I3", "risk")
def refused_replace_stays_reserved(patch: Patch) -> None:
    """What a replace has added stays reserved when it comes to nothing."""
    apply = requests.apply_answer

    def keep(account: AccountRisk, reservation: Reservation, answer: Any) -> Any:
        after, left = apply(account, reservation, answer)
        if isinstance(answer, OrderReplaced) or left is None:
            return after, left
        return replace(after, holdings=account.holdings), left

    patch.setattr(requests, "apply_answer", keep)


@mutant("I3", "compliance")
def replaced_order_rests_at_its_old_price(patch: Patch) -> None:
    """Compliance goes by the price that an order had before it was replaced."""
    apply = compliance.apply_execution

    def as_before(account: Any, opened: OpenOrder | None, event: Any) -> Any:
        account, left = apply(account, opened, event)
        if isinstance(event, OrderReplaced) and left is not None and opened is not None:
            left = replace(left, price_ticks=opened.price_ticks)
        return account, left

    patch.setattr(compliance, "apply_execution", as_before)


@mutant("I7", *SERVICES, faults=("poison",))
def cancels_wait_behind_a_quarantine(patch: Patch) -> None:
    """A cancel is held behind a dead letter of its account like an order."""
    patch.setattr(TopicSpec, "passes", lambda spec, headers: spec.protects is True)
