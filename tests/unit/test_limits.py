"""Operators' commands about one account: what takes, what is refused, and what the answer says."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from app.domain.limits import (
    TEXT_LENGTH_MAX,
    apply_limits,
    apply_sequence,
    asks_to_kill,
    decide_limits,
    decide_removal,
    decide_sequence,
    decide_unread,
)
from app.domain.risk import NEW_ACCOUNT, AccountRisk
from models.commands import SetAccountSequence, SetRiskLimits
from models.events import CommandAnswered
from tests.builders import limits

ACCOUNT = AccountRisk(holdings={}, last_sequence=900, last_approved_sequence=17)


def set_sequence(last_sequence: int) -> SetAccountSequence:
    return SetAccountSequence(account_id="acc-1", last_sequence=last_sequence, who="the desk", why="a slip")


@pytest.mark.parametrize(
    ("version", "kill_switch", "accepted"),
    [
        (8, False, True),
        (7, False, False),
        (6, False, False),
        (8, True, True),
        (7, True, True),
        (1, True, True),
    ],
)
def test_limits_take_with_a_higher_version_and_a_kill_switch_always(
    version: int, kill_switch: bool, accepted: bool
) -> None:
    answer = decide_limits(limits(version=version, kill_switch=kill_switch), limits(version=7))

    assert answer.accepted is accepted
    assert answer.reason == ("" if accepted else "version 7 is in force: send a higher one")


@pytest.mark.parametrize("version", [-3, 0, 1, 99])
def test_the_first_limits_of_an_account_may_have_any_version(version: int) -> None:
    first = limits(version=version)

    assert decide_limits(first, None).accepted
    assert apply_limits(first, None) == first


def test_an_answer_names_the_command_who_and_why() -> None:
    assert decide_limits(limits(version=8, who="the desk", why="more room"), None) == CommandAnswered(
        command="SetRiskLimits",
        subject="acc-1",
        version=8,
        accepted=True,
        who="the desk",
        why="more room",
    )


def test_newer_limits_replace_the_ones_before_and_may_switch_off() -> None:
    newer = limits(version=8, kill_switch=False)

    assert apply_limits(newer, limits(version=7, kill_switch=True)) == newer


@pytest.mark.parametrize("version", [7, 1])
@pytest.mark.parametrize("is_on", [False, True])
def test_of_a_kill_switch_that_is_not_newer_the_switch_alone_takes(version: int, is_on: bool) -> None:
    in_force = limits(version=7, kill_switch=is_on)
    command = limits(version=version, kill_switch=True, position_lots_max=10**9)

    assert apply_limits(command, in_force) == limits(version=7, kill_switch=True)


def test_limits_can_be_removed_once() -> None:
    assert decide_removal("acc-1", limits()).accepted
    answer = decide_removal("acc-1", None)
    assert (answer.accepted, answer.reason) == (False, "the account has no limits to remove")
    assert (answer.subject, answer.version) == ("acc-1", None)


@pytest.mark.parametrize(
    ("last_sequence", "refused_for"),
    [
        (17, ""),
        (18, ""),
        (2**62, ""),
        (16, "order 17 was approved: set that or a higher one"),
        (0, "order 17 was approved: set that or a higher one"),
    ],
)
def test_a_sequence_is_set_to_anything_not_below_the_last_approved_order(
    last_sequence: int, refused_for: str
) -> None:
    answer = decide_sequence(set_sequence(last_sequence), ACCOUNT, is_known=True)

    assert (answer.accepted, answer.reason) == (not refused_for, refused_for)
    assert (answer.command, answer.subject, answer.who) == ("SetAccountSequence", "acc-1", "the desk")


def test_a_new_account_may_begin_anywhere() -> None:
    assert decide_sequence(set_sequence(0), NEW_ACCOUNT, is_known=True).accepted


def test_the_sequence_of_an_unknown_account_is_not_set() -> None:
    answer = decide_sequence(set_sequence(20), NEW_ACCOUNT, is_known=False)

    assert not answer.accepted
    assert "not known" in answer.reason


def test_setting_the_sequence_changes_nothing_else() -> None:
    assert apply_sequence(ACCOUNT, set_sequence(20)) == replace(ACCOUNT, last_sequence=20)


def test_in_books_of_the_release_before_any_order_may_have_been_approved() -> None:
    old = replace(ACCOUNT, last_approved_sequence=None)

    assert not decide_sequence(set_sequence(899), old, is_known=True).accepted
    after = apply_sequence(old, set_sequence(950))
    assert (after.last_sequence, after.approved_up_to) == (950, 900)


def test_a_command_that_cannot_be_read_is_refused_with_what_it_tells() -> None:
    value = b'{"account_id": "acc-1", "version": 9, "who": "the desk", "why": "today", "daily_loss": 1}'
    answer, after = decide_unread("SetRiskLimits", "acc-1", value, "ValueError: daily_loss", limits())

    assert after == limits()
    assert answer == CommandAnswered(
        command="SetRiskLimits",
        subject="acc-1",
        version=9,
        accepted=False,
        reason="it cannot be read: ValueError: daily_loss",
        who="the desk",
        why="today",
    )


SAYS_ON = (b'"true"', b"1", b'"1"', b'"on"', b'"Yes"', b'"y"', b'"t"', b"1.0", b'"enabled"', b"2", b"[true]")
SAYS_OFF = (b'"false"', b"0", b'"0"', b'"off"', b'"No"', b'"n"', b'"f"', b"0.0", b"null", b'""')


def test_what_switches_a_kill_switch_on_in_a_command_that_can_be_read_does_so_in_one_that_cannot() -> None:
    for said in (*SAYS_ON, *SAYS_OFF):
        try:
            command = limits().model_dump() | {"kill_switch": json.loads(said)}
            is_on = SetRiskLimits.model_validate(command).kill_switch
        except ValueError:
            continue
        assert asks_to_kill(b'{"kill_switch": %b, "stop": 1}' % said) is is_on, said


@pytest.mark.parametrize(
    ("value", "kills"),
    [
        (b'{"kill_switch": true, "stop": 1}', True),
        (b'{"kill_switch": false, "stop": 1}', False),
        *((b'{"kill_switch": %b, "stop": 1}' % each, True) for each in SAYS_ON),
        *((b'{"kill_switch": %b, "stop": 1}' % each, False) for each in SAYS_OFF),
        (b'{"killSwitch": true}', True),
        (b'{"limits": {"kill_switch": true}}', True),
        (b'{"limits": {"kill_switch": false}}', False),
        (rb'{"payload": "{\"kill_switch\": true}"}', True),
        (rb'"{\"kill_switch\":\"on\"}"', True),
        (b'{"KILL-SWITCH": true}', True),
        (b'{"killSwitch": false}', False),
        (b'{"kill_switch_note": true}', False),
        (b'{"stop": 1}', False),
        (b"kill_switch: true", True),
        (b"kill_switch: off", False),
        (b"{'account_id': 'acc-1', 'kill_switch': True}", True),
        (b"{'account_id': 'acc-1', 'kill_switch': False}", False),
        (b'{"account_id": "acc-1", "kill_switch": true, "who', True),
        (b'{"account_id": "acc-1", "kill_switch":', False),
        (b'["kill_switch"]', False),
        (b"[" * 100_000, False),
        (b"\xff\xfe", False),
        (b"", False),
        (None, False),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_kill_switch_takes_in_a_command_that_cannot_be_read(value: Any, kills: bool) -> None:
    answer, after = decide_unread("SetRiskLimits", "acc-1", value, "why not", limits(version=7))

    assert after == limits(version=7, kill_switch=kills)
    assert not answer.accepted
    assert answer.reason.startswith("the kill switch is on") is kills


def test_a_kill_switch_for_an_account_without_limits_has_nothing_to_switch() -> None:
    answer, after = decide_unread("SetRiskLimits", "acc-1", b'{"kill_switch": true}', "why not", None)

    assert after is None
    assert answer.reason == "it cannot be read: why not"


@pytest.mark.parametrize("version", [b"true", b"1.5", b'"7"', b"null"])
def test_the_answer_to_nonsense_can_be_written(version: bytes) -> None:
    value = b'{"version": %b, "who": "\\ud800", "why": "%b"}' % (version, b"y" * 10_000)
    answer, _ = decide_unread("SetRiskLimits", "\\xff" * 1_000, value, "z" * 10_000, None)

    assert answer.version is None
    assert max(map(len, (answer.subject, answer.reason, answer.why))) <= TEXT_LENGTH_MAX
    answer.model_dump_json().encode()
