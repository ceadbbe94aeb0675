"""One pipeline for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.pipeline import OutsidePipeline, outside_pipeline

START_AND_TEST_S = 300
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for a whole pipeline to come up."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(START_AND_TEST_S))


@pytest.fixture(scope="package")  # not longer: idle as it is, it costs half a core
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutsidePipeline]:
    with outside_pipeline(tmp_path_factory.mktemp("outside")) as running:
        yield running
