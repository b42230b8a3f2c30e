"""A rerun is a fresh run: after any edit `guie run` gives what a fresh run gives, or refuses in one line."""

import pytest

from tests.faults import edits_of_results
from tests.faults.reruns import SEED, Reruns, eighth

pytestmark = pytest.mark.faults("stale results")


@pytest.mark.parametrize("name", eighth(edits_of_results.KINDS))
def test_a_rerun_after_an_edit_is_a_fresh_run_or_refuses(reruns: Reruns, tmp_path, name):
    reruns.check(edits_of_results.KINDS[name], tmp_path / "world", f"{SEED} {name}")
