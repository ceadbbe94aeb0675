"""What counts as an outage, and what as a gap, in `bench.failover`."""

from bench.gaps import Answer, longest_gap, outage


def test_an_outage_ends_with_the_first_answer_to_what_was_sent_after_the_kill() -> None:
    answers = [
        Answer(at=9.9, sent_at=9.8),
        Answer(at=10.1, sent_at=9.9),  # committed before the kill, read after it
        Answer(at=12.0, sent_at=9.95),  # sent before the kill, decided by the other worker
        Answer(at=12.5, sent_at=10.5),
        Answer(at=12.6, sent_at=10.2),
    ]

    assert outage(answers, killed_at=10.0) == 2.5


def test_an_outage_without_a_new_answer_has_no_end_yet() -> None:
    assert outage([], killed_at=10.0) is None
    assert outage([Answer(at=11.0, sent_at=9.0)], killed_at=10.0) is None


def test_a_gap_lies_between_two_answers() -> None:
    answers = [Answer(at, at) for at in (0.0, 1.0, 1.5, 4.0, 4.5, 9.0)]

    assert longest_gap(answers, since=1.0, until=5.0) == 2.5


def test_silence_at_either_end_is_a_gap_and_what_lies_outside_is_not() -> None:
    answers = [Answer(at, at) for at in (0.0, 3.0, 3.5)]

    assert longest_gap(answers, since=1.0, until=4.0) == 2.0
    assert longest_gap(answers, since=3.0, until=6.0) == 2.5
    assert longest_gap([], since=3.0, until=6.0) == 3.0
