"""Several random edits at once and one after the other, each time a rerun: GUIE_SEED, GUIE_EDITS (how many rounds)."""

import os
import random

import pytest

from tests.faults import edits_of_records, edits_of_results
from tests.faults.reruns import SEED, Reruns, costly
from tests.faults.world import results

ROUNDS = int(os.environ.get("GUIE_EDITS", "1"))
KINDS = {**edits_of_records.KINDS, **edits_of_results.KINDS}
AT_ONCE = (1, 2, 3)


@pytest.mark.slow
@pytest.mark.faults("stale results")
@pytest.mark.parametrize("number", range(ROUNDS))
def test_reruns_after_random_edits_are_fresh_runs_or_refuse(reruns: Reruns, tmp_path, tried, number):
    seed = f"{SEED} {number}"
    names = random.Random(seed).sample([name for name, kind in KINDS.items() if not kind.start], sum(AT_ONCE))
    print(names)  # of a round that fails
    left = iter(names)
    reruns.check_in_turn([[KINDS[next(left)] for _ in range(count)] for count in AT_ONCE], tmp_path / "world", seed)
    tried(len(names))


@pytest.mark.faults("stale results")
def test_a_run_and_its_data_in_another_place_are_not_done_again(reruns: Reruns, tmp_path):
    """Folders copied to another machine: other times, inodes and paths, the same bytes."""
    whole, _ = reruns.fresh(reruns.world)
    copy = whole.copied(tmp_path / "world")
    made = costly(copy)
    ended = copy.guie()
    assert ended.code == 0 and results(copy) == results(whole)
    assert costly(copy) == made, ended.out
