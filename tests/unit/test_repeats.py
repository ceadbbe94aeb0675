"""Errors that repeat themselves while Kafka is away do not fill the log, and do not vanish."""

import logging

import aiokafka.client
import aiokafka.consumer.group_coordinator
import pytest

from app.engine.kafka.repeats import SILENT_S, Repeats


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def logger() -> logging.Logger:
    found = logging.Logger("of a client")
    found.addFilter(Repeats())
    return found


def test_an_error_is_said_once_in_a_while_with_a_count(
    logger: logging.Logger, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    logger.addHandler(caplog.handler)

    for number in range(4):
        logger.error("no way to node %s", number)
    logger.error("something else")
    clock[0] += SILENT_S
    logger.error("no way to node %s", 9)
    clock[0] += SILENT_S
    logger.error("no way to node %s", 10)

    assert caplog.messages == [
        "no way to node 0",
        "something else",
        "no way to node 9 (and 3 times more since)",
        "no way to node 10",
    ]


def test_what_is_no_warning_is_always_said(
    logger: logging.Logger, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    logger.addHandler(caplog.handler)

    logger.info("joined")
    logger.info("joined")

    assert caplog.messages == ["joined", "joined"]


def test_the_clients_that_flood_the_log_are_kept_from_it() -> None:
    for module in (aiokafka.client, aiokafka.consumer.group_coordinator):
        assert any(isinstance(each, Repeats) for each in module.log.filters), module
