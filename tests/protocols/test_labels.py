"""Classes as numbers: several of an image, distractors, the same class of two domains."""

import numpy as np
import pytest

from pipeline.benchmarks.labels import Numbers, hits, joined, matches, numbered, without


@pytest.mark.parametrize("seed", range(4))
def test_any_class_in_common_is_a_hit_and_a_distractor_is_none(seed):
    random = np.random.default_rng(seed)

    def drawn(count):
        found = [[str(each) for each in random.integers(0, 6, random.integers(1, 4))] for _ in range(count)]
        return [["-1"] if random.random() < 0.2 else names for names in found]

    def classes(names):
        return set(names) - {"-1"}

    queries, first, second = drawn(20), drawn(15), drawn(10)
    numbers: Numbers = {}
    asked = numbered("a", queries, numbers)
    index = joined([numbered("a", first, numbers), numbered("b", first, numbers), numbered("a", second, numbers)])
    held = [classes(each) for each in first] + [set()] * len(first) + [classes(each) for each in second]
    wanted = [[bool(classes(query) & each) for each in held] for query in queries]
    near = np.stack([random.permutation(len(held)) for _ in queries])[:, :30]
    near[0, -2:] = -1
    expected = [[row >= 0 and wanted[place][row] for row in found] for place, found in enumerate(near.tolist())]
    assert hits(near, asked, index).tolist() == expected
    assert matches(asked, index).tolist() == [sum(each) for each in wanted]
    assert hits(near[5:9], asked.part(slice(5, 9)), index).tolist() == expected[5:9]


def test_without_itself_the_others_keep_their_order_and_number():
    near = np.array([[4, 0, 2, 9], [1, 2, 3, 4], [5, 6, 7, -1]])
    assert without(near, np.array([2, 8, -1])).tolist() == [[4, 0, 9], [1, 2, 3], [5, 6, 7]]
