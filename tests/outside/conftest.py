"""One pipeline for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.outside.pipeline import OutsidePipeline, outside_pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutsidePipeline]:
    with outside_pipeline(tmp_path_factory.mktemp("outside")) as running:
        yield running
