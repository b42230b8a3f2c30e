"""What is picked from the scored vectors, against a slow search over all of them."""

from collections import Counter

import numpy as np
import pytest

from pipeline.evaluation.scored import Scored
from pipeline.pages import neighbours


def made(apart: bool, images: int = 90, classes: int = 9, seed: int = 0) -> Scored:
    """Vectors around their class's centre; of `apart` the last third are queries of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    vectors = (rng.normal(size=(classes, 6))[labels] + 0.9 * rng.normal(size=(images, 6))).astype(np.float32)
    roles = ["index" if apart and row < 2 * images // 3 else "query" if apart else "both" for row in range(images)]
    keys = [f"{row}.jpg" for row in range(images)]
    return Scored(vectors, keys, [f"c{label}" for label in labels], ["d"] * images, roles, labels.astype(np.int64))


def slow(images: Scored) -> dict[int, tuple[list[int], list[bool], int]]:
    """Row of each query → its five nearest rows, which of them are right, and how many there could be."""
    index = [row for row, role in enumerate(images.roles) if role != "query"]
    found = {}
    for query in [row for row, role in enumerate(images.roles) if role != "index"]:
        others = [row for row in index if row != query]
        near = sorted(others, key=lambda row: (float(np.linalg.norm(images.vectors[row] - images.vectors[query])), row))
        hits = [bool(images.labels[row] == images.labels[query]) for row in near[:5]]
        found[query] = near[:5], hits, sum(images.labels[row] == images.labels[query] for row in others)
    return found


def precision(hits: list[bool], matches: int) -> float:
    counted = min(matches, 5)
    return sum(hits[:counted]) / counted if counted else 0.0


@pytest.mark.parametrize("apart", [False, True])
def test_neighbours_worst_best_classes_and_pairs_are_those_of_a_slow_search(apart):
    images = made(apart)
    expected, found = slow(images), neighbours.inspect(images)
    assert found.queries.tolist() == [*expected] and found.of == len(expected)
    for at, (near, hits, matches) in enumerate(expected.values()):
        assert found.neighbours[at].tolist() == near and found.hits[at].tolist() == hits
        assert found.matches[at] == matches and found.precisions[at] == precision(hits, matches)
    values = [precision(hits, matches) for _, hits, matches in expected.values()]
    everything = [at for at, (_, _, matches) in enumerate(expected.values()) if matches and values[at] < 1]
    assert len(everything) > 8
    worst, best = found.worst(8), found.best(8)
    labels = images.labels[found.queries]
    for chosen, sign in ((worst, 1), (best, -1)):
        assert len(chosen) == len(set(chosen)) == 8
        assert max(Counter(labels[chosen].tolist()).values()) <= 2
        # Nobody left out is further towards that end, but for those of a class that is shown twice already.
        full = {label for label, count in Counter(labels[chosen].tolist()).items() if count == 2}
        free = [at for at in range(len(values)) if at not in chosen and labels[at] not in full]
        assert all(sign * values[at] >= sign * values[chosen[-1]] for at in free if expected[int(found.queries[at])][2])
        assert [sign * values[at] for at in chosen] == sorted(sign * values[at] for at in chosen)
    assert values[worst[0]] == min(values[at] for at in everything) and values[best[0]] == max(values)
    for each in found.classes():
        own = [at for at, label in enumerate(labels) if f"c{label}" == each.name]
        assert each.queries == len(own) and each.precision == pytest.approx(np.mean([values[at] for at in own]))
    assert [each.precision for each in found.classes()] == sorted(each.precision for each in found.classes())
    counts: Counter = Counter()
    for query, (near, hits, matches) in expected.items():
        counted = [*zip(near, hits, strict=True)][:matches]
        counts.update((int(images.labels[query]), int(images.labels[row])) for row, hit in counted if not hit)
    pairs = found.confused(6)
    both = {frozenset(pair): counts[pair] + counts[pair[::-1]] for pair in counts}
    assert [each.found + each.back for each in pairs] == sorted(both.values(), reverse=True)[:6]
    for each in pairs:
        assert (each.found, each.back) == (counts[each.one, each.other], counts[each.other, each.one])
        assert (images.labels[each.query], images.labels[each.neighbour]) == (each.one, each.other)
        assert each.neighbour in expected[each.query][0]
    assert len(found.distances_of(True)) == sum(sum(hits) for _, hits, _ in expected.values())
    assert len(found.distances_of(False)) == 5 * len(expected) - len(found.distances_of(True))


def test_classes_of_two_images_that_find_each_other_are_not_taken_for_others():
    """The second to fifth of each are of other classes, and cannot be else."""
    images = made(False, images=12, classes=1)
    labels = np.repeat(np.arange(6), 2)
    vectors = np.eye(6, dtype="f")[labels] + 0.01 * images.vectors
    found = neighbours.inspect(Scored(vectors, images.keys, images.classes, images.domains, images.roles, labels))
    assert found.precisions.min() == 1 and found.confused(8) == [] and len(found.distances_of(False)) == 48


def test_of_many_queries_some_are_looked_at_and_none_finds_itself():
    images = made(False)
    found = neighbours.inspect(images, most=7)
    expected = slow(images)
    assert len(found.queries) == 7 and found.of == 90 and found.queries[-1] == 89
    for at, row in enumerate(found.queries.tolist()):
        assert found.neighbours[at].tolist() == expected[row][0] and row not in found.neighbours[at]


def test_an_image_among_ten_of_the_same_bytes_is_never_its_own_neighbour():
    images = made(False, images=30)
    images.vectors[:10] = images.vectors[0]
    found = neighbours.inspect(images)
    assert not (found.neighbours == found.queries[:, None]).any() and (found.neighbours[:10] < 10).all()


def test_a_single_class_and_a_tiny_index_have_neither_worst_nor_pairs():
    images = made(False, images=3, classes=1)
    found = neighbours.inspect(images)
    assert found.worst(8) == [] and found.confused(8) == [] and len(found.best(8)) == 3
    assert (found.neighbours[:, 2:] == -1).all() and len(found.distances_of(True)) == 6
