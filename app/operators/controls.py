"""`python -m app limits|halt|resume|restrict|sequence`: the controls an operator has, one command each."""

import argparse
import json
from difflib import get_close_matches
from typing import Any, Final

from app.codecs import TableCodec
from app.engine.topics import TopicSpec
from app.errors import UserError
from app.operators.answers import line_of, status_of
from app.operators.desk import Desk, Unreadable, login_name, next_version
from app.operators.holders import read_table_value
from app.operators.limit_values import NAMES, changed, read_values, shown
from app.operators.refdata_state import standing
from app.operators.texts import is_text
from app.topics import (
    ACCOUNT_COMMANDS,
    ACCOUNTS,
    HALTS,
    INSTRUMENTS,
    OPERATOR_COMMANDS,
    RESTRICTED_LIST,
    RESTRICTIONS,
    RISK_LIMITS,
)
from models.commands import SetAccountSequence, SetHalt, SetRestriction, SetRiskLimits
from models.values import EVERYBODY

LIMITS_IN_FORCE: Final = "risk-risk_limits-changelog"


async def limits_set(options: argparse.Namespace) -> int:
    """Change some limits of an account; the others stay as they are in force."""
    who = options.who or login_name()
    account = _named(options.account)
    async with Desk.open(options.bootstrap, options.wait) as desk:
        registered = (await standing(desk, ACCOUNTS, account)).value
        values = read_values(options.values, registered.base_currency if registered else None)
        before = await _limits(desk, account)
        wanted = changed(before, account, values)
        version = 1 + max(0 if before is None else before.version, await _last_version(desk, account))
        command = wanted.model_copy(update={"version": version, "who": who, "why": options.why})
        if registered is None and not options.json:
            print(
                f"note: account {account!r} is not registered: its orders are refused until it is "
                "('refdata load')"
            )
        currency = registered.base_currency if registered else ""
        return await _order(desk, RISK_LIMITS, command, options, _differences(before, command, currency))


async def limits_show(options: argparse.Namespace) -> int:
    """Print the limits of an account that are in force."""
    async with Desk.open(options.bootstrap, options.wait) as desk:
        found = await _limits(desk, options.account)
        if found is None:
            raise UserError(
                f"{options.account!r} has no limits: every order of it is refused; see 'limits set'"
            )
        commanded = await _last_version(desk, options.account)
        registered = (await standing(desk, ACCOUNTS, options.account)).value
    if options.json:
        print(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return 0
    print(f"limits of {found.account_id}, version {found.version}, by {found.who or '-'}: {found.why or '-'}")
    for name in NAMES:
        print(f"  {name:<28}{shown(name, found, registered.base_currency if registered else '')}")
    if commanded > found.version:
        print(
            f"note: the last command has version {commanded}: it was refused, or risk has not judged it yet"
        )
    return 0


LIMITS_ACTIONS: Final = {"set": limits_set, "show": limits_show}


async def halt(options: argparse.Namespace) -> int:
    """Halt an account or everybody. What can't be read of the state before does not keep it from halting."""
    scope, who = options.account or EVERYBODY, options.who or login_name()
    async with Desk.open(options.bootstrap, options.wait) as desk:
        await _require_known(desk, ACCOUNTS, scope, "account")
        before = await desk.last_of(HALTS, scope)
        version = next_version(_version_of(before), always_takes=True)
        command = SetHalt(scope=scope, halted=True, version=version, who=who, why=options.why)
        return await _order(desk, OPERATOR_COMMANDS, command, options, f"{_scope(scope)} halted")


async def resume(options: argparse.Namespace) -> int:
    """End a halt."""
    scope, who = options.account or EVERYBODY, options.who or login_name()
    async with Desk.open(options.bootstrap, options.wait) as desk:
        before, unreadable = await standing(desk, HALTS, scope)
        if not unreadable:
            if before is None:
                await _require_known(desk, ACCOUNTS, scope, "account")
            if before is None or not before.halted:
                return _nothing(options, f"{_scope(scope)} not halted")
        version = next_version(_version_of(before))
        command = SetHalt(scope=scope, halted=False, version=version, who=who, why=options.why)
        everybody = None if scope == EVERYBODY else await desk.last_of(HALTS, EVERYBODY)
        is_halted = isinstance(everybody, Unreadable) or (everybody is not None and everybody.halted)
        still = "; everybody is still halted" if is_halted else ""
        return await _order(
            desk, OPERATOR_COMMANDS, command, options, f"{_scope(scope)} not halted any more{still}"
        )


async def restrict(options: argparse.Namespace) -> int:
    """Put an instrument on the restricted list, or take it off.

    As with a halt, what can't be read of the state before does not keep it from being restricted.
    """
    symbol = options.symbol
    async with Desk.open(options.bootstrap, options.wait) as desk:
        if options.lift:
            return await _lift(desk, symbol, options)
        before = await desk.last_of(RESTRICTED_LIST, symbol)
        await _require_known(desk, INSTRUMENTS, symbol, "instrument")
        return await _set_restriction(desk, options, before, f"{symbol} is restricted")


async def _lift(desk: Desk, symbol: str, options: argparse.Namespace) -> int:
    before, unreadable = await standing(desk, RESTRICTED_LIST, symbol)
    if not unreadable:
        if before is None:
            await _require_known(desk, INSTRUMENTS, symbol, "instrument")
        if before is None or not before.restricted:
            return _nothing(options, f"{symbol} is not restricted")
    return await _set_restriction(desk, options, before, f"{symbol} is not restricted any more")


async def _set_restriction(desk: Desk, options: argparse.Namespace, before: Any, told: str) -> int:
    command = SetRestriction(
        symbol=options.symbol,
        restricted=not options.lift,
        version=next_version(_version_of(before), always_takes=not options.lift),
        who=options.who or login_name(),
        why=options.why,
    )
    return await _order(desk, RESTRICTIONS, command, options, told)


def _version_of(before: Any) -> int | None:
    """The version of what is in force; None where nothing is, or where it can't be read."""
    return None if before is None or isinstance(before, Unreadable) else int(before.version)


async def sequence(options: argparse.Namespace) -> int:
    """Set right which order counts as the last one of an account."""
    command = SetAccountSequence(
        account_id=_named(options.account),
        last_sequence=options.last_sequence,
        who=options.who or login_name(),
        why=options.why,
    )
    async with Desk.open(options.bootstrap, options.wait) as desk:
        await _require_known(desk, ACCOUNTS, options.account, "account")
        told = f"orders of {options.account} count from {options.last_sequence + 1} on"
        return await _order(desk, ACCOUNT_COMMANDS, command, options, told)


async def _order(desk: Desk, spec: TopicSpec, command: Any, options: argparse.Namespace, told: str) -> int:
    (answer,) = await desk.order(spec, [command])
    if options.json:
        print(json.dumps(answer.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        print(line_of(answer, told))
    return status_of([answer])


def _nothing(options: argparse.Namespace, told: str) -> int:
    print("null" if options.json else f"nothing to do: {told}")
    return 0


async def _limits(desk: Desk, account_id: str) -> SetRiskLimits | None:
    """The limits in force, from risk's own table."""
    if not desk.has_topic(LIMITS_IN_FORCE):
        return None
    record = await desk.last_record(LIMITS_IN_FORCE, account_id)
    if record is None:
        return None
    codec = TableCodec("risk.risk_limits", SetRiskLimits)
    limits: SetRiskLimits = read_table_value(LIMITS_IN_FORCE, account_id, codec, record.value)
    return limits


async def _last_version(desk: Desk, account_id: str) -> int:
    """The version of the last command, taken or not; 0 for none and for one that can't be read."""
    command = await desk.last_of(RISK_LIMITS, account_id)
    return command.version if isinstance(command, SetRiskLimits) else 0


def _differences(before: SetRiskLimits | None, after: SetRiskLimits, currency: str) -> str:
    if before is None:
        return ", ".join(f"{name} {shown(name, after, currency)}" for name in NAMES)
    return (
        ", ".join(
            f"{name} {shown(name, before, currency)} → {shown(name, after, currency)}"
            for name in NAMES
            if getattr(before, name) != getattr(after, name)
        )
        or "nothing changed"
    )


async def _require_known(desk: Desk, spec: TopicSpec, name: str, what: str) -> None:
    """A name with a typing error would be accepted, and protect nobody."""
    if name == EVERYBODY and spec is ACCOUNTS:
        return
    if await desk.last_of(spec, _named(name)) is not None:
        return
    known = sorted(await desk.in_force(spec))
    close = get_close_matches(name, known, 3)
    listed = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"no {what} {name!r} is in force; {listed}'refdata show {spec.name}' lists them all")


def _named(name: str) -> str:
    if not 0 < len(name) <= 256 or not is_text(name):
        raise UserError(f"{name[:64]!r} is no name: a name is a text of 1 to 256 characters")
    return name


def _scope(scope: str) -> str:
    return "all accounts are" if scope == EVERYBODY else f"{scope} is"
