"""The example service as a module: `faust -A tests.engine.worker worker`.

The environment says what the service is called: `TEST_SERVICE` has its options as JSON. `TEST_MUTANT` names a
mutant to run with, for seeing one at work.
"""

import os

import msgspec

from app.engine import use_uvloop
from storm.mutants.engine import BROKEN_RULES
from storm.mutants.patching import Permanent
from tests.engine.service import Options, make_app

use_uvloop()
if mutant := os.environ.get("TEST_MUTANT"):
    BROKEN_RULES[mutant].patch(Permanent())
app = make_app(msgspec.json.decode(os.environ["TEST_SERVICE"], type=Options))
