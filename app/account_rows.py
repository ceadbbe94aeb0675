"""The rows of compliance's accounts in a unit of work, and what is remembered of them from one to the next.

A decision needs the best price at which the account rests, and a table has no order by price. So each task
keeps in memory what rows of accounts that it has met come to, edited along with them. It is made of the rows
when an account is met first, and again when a unit of work that has edited it is not committed.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import Final, NamedTuple

from app.domain.compliance import (
    NEW_COMPLIANCE_ACCOUNT,
    ComplianceAccount,
    Moved,
    Remembered,
    apply_compliance,
    moved,
    open_order,
    recent_order,
)
from app.domain.recent import Recent, RecentOrder
from app.domain.resting import OpenOrder, Resting
from app.engine import Table, UnitOfWork
from models.events import OrderReceived, OrderRiskApproved, ReplaceRequested

ACCOUNTS_REMEMBERED_MAX: Final = 10_000


class AccountTables(NamedTuple):
    """By account, by account/order and by account/number."""

    accounts: Table[ComplianceAccount]
    open_orders: Table[OpenOrder]
    recent: Table[RecentOrder]


class Memory:
    """What a task remembers of its accounts: never more than is committed, once a unit of work has begun."""

    def __init__(self) -> None:
        self.known: dict[str, Remembered] = {}
        self.edited: set[str] = set()
        """The accounts that the unit of work has edited; empty again once it is committed."""
        self._task: object = None

    def begin(self, task: object) -> None:
        """Forget what was not committed, what was another task's, and the first accounts if too many."""
        if task is not self._task:
            self.known.clear()
            self._task = task
        for account_id in self.edited:
            self.known.pop(account_id, None)
        self.edited.clear()
        if len(self.known) > ACCOUNTS_REMEMBERED_MAX:
            for account_id in list(islice(self.known, ACCOUNTS_REMEMBERED_MAX // 4)):
                del self.known[account_id]


class AccountRows:
    """The accounts in one unit of work. Whatever edits the rows of an account edits its memory too."""

    def __init__(self, work: UnitOfWork, tables: AccountTables, memory: Memory) -> None:
        memory.begin(work.task)
        self._memory = memory
        self._work = work
        self._committed = tables.open_orders
        self._accounts = work[tables.accounts]
        self._open_orders = work[tables.open_orders]
        self._recent = work[tables.recent]

    def account(self, account_id: str) -> ComplianceAccount:
        """How far the account has come; what version 1 had in its value is moved into rows of their own."""
        account = self._accounts.get(account_id, NEW_COMPLIANCE_ACCOUNT)
        parts = moved(account)
        return account if parts is None else self._move(account_id, parts)

    def open_order(self, account_id: str, order_id: str) -> OpenOrder | None:
        """The row of an order that has not ended; ask for its account before."""
        return self._open_orders.get(f"{account_id}/{order_id}")

    def remembered(self, account_id: str) -> Remembered:
        """What the account's next order is judged by; ask for the account before."""
        known = self._memory.known.get(account_id)
        if known is None:
            known = self._memory.known[account_id] = self._read(account_id)
        return known

    def approve(self, account: ComplianceAccount, approval: OrderRiskApproved) -> None:
        """Keep an order that was approved: it is open, and recent."""
        order = approval.order
        account_id = order.account_id
        remembered = self._edit(account_id)
        opened, row = open_order(order), recent_order(approval)
        remembered.resting.add(opened)
        self._open_orders[f"{account_id}/{order.order_id}"] = opened
        self._recent[f"{account_id}/{remembered.recent.add(row)}"] = row
        self._accounts[account_id] = apply_compliance(account, order.sequence)

    def judged(self, account: ComplianceAccount, about: OrderReceived | ReplaceRequested) -> None:
        """Keep the number of a replace, and of an order that was rejected: all that is kept of that."""
        self._accounts[about.account_id] = apply_compliance(account, about.sequence)

    def change(self, account_id: str, order_id: str, before: OpenOrder, after: OpenOrder) -> None:
        """Keep what has changed of an open order."""
        resting = self._edit(account_id).resting
        resting.remove(before)
        resting.add(after)
        self._open_orders[f"{account_id}/{order_id}"] = after

    def end(self, account_id: str, account: ComplianceAccount, order_id: str, ended: OpenOrder) -> None:
        """Forget an open order; `account` is what is left."""
        self._edit(account_id).resting.remove(ended)
        del self._open_orders[f"{account_id}/{order_id}"]
        self._accounts[account_id] = account

    def _edit(self, account_id: str) -> Remembered:
        """The account's memory, to be edited: it lasts if the unit of work is committed."""
        remembered = self.remembered(account_id)
        edited = self._memory.edited
        if not edited:
            self._work.after_commit(edited.clear)
        edited.add(account_id)
        return remembered

    def _read(self, account_id: str) -> Remembered:
        """Make the memory of an account of its rows, none of which this unit of work has changed."""
        remembered = Remembered(Recent(), Resting())
        if account_id not in self._accounts:
            return remembered
        for order in self._committed_orders(account_id):
            remembered.resting.add(order)
        return remembered._replace(recent=Recent(self._recent_rows(account_id)))

    def _committed_orders(self, account_id: str) -> Iterator[OpenOrder]:
        """The account's open orders. Of an account `a`, `a/b` is another one: its keys have more slashes."""
        prefix, slashes = f"{account_id}/", 2 * account_id.count("/") + 1
        for key, order in self._work.task.table(self._committed).items(after=prefix):
            if not key.startswith(prefix):
                return
            if key.count("/") == slashes:
                yield order

    def _recent_rows(self, account_id: str) -> Iterator[tuple[int, RecentOrder]]:
        for number in count():
            row = self._recent.get(f"{account_id}/{number}")
            if row is None:
                return
            yield number, row

    def _move(self, account_id: str, parts: Moved) -> ComplianceAccount:
        """Write what was one value as rows."""
        for order_id, order in parts.open_orders.items():
            self._open_orders[f"{account_id}/{order_id}"] = order
        for number, row in enumerate(parts.recent):
            self._recent[f"{account_id}/{number}"] = row
        self._accounts[account_id] = parts.account
        self._memory.known[account_id] = remembered = Remembered(Recent(enumerate(parts.recent)), Resting())
        for order in parts.open_orders.values():
            remembered.resting.add(order)
        self._edit(account_id)
        return parts.account
