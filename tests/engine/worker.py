"""The example service as a module: `faust -A tests.engine.worker worker`.

The environment says what the service is called: `TEST_SERVICE` has its options as JSON. `TEST_MUTANT` names a
mutant to run with, for seeing one at work.
"""

import os

import msgspec
import pytest

from app.engine import use_uvloop
from tests.engine.mutants import MUTANTS
from tests.engine.service import Options, make_app

use_uvloop()
if mutant := os.environ.get("TEST_MUTANT"):
    MUTANTS[mutant].patch(pytest.MonkeyPatch())
app = make_app(msgspec.json.decode(os.environ["TEST_SERVICE"], type=Options))
