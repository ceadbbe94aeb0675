"""What a log may say of a venue that refuses."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError

from app.venue_client import told


@pytest.mark.parametrize("status", [401, 503])
def test_a_refusal_is_told_without_the_token(status: int) -> None:
    request: Any = SimpleNamespace(headers={"Authorization": "Bearer secret"}, real_url="http://venue/")
    error = WSServerHandshakeError(request, (), status=status, message="Invalid response status")

    assert "secret" in repr(error)
    assert "secret" not in told(error)
    assert f"{status}, message='Invalid response status'" in told(error)
    assert ("check VENUE_TOKEN" in told(error)) is (status == 401)


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert told(TimeoutError()) == "TimeoutError"
