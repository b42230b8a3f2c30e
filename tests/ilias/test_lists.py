"""The id lists of ILIAS, whole and damaged."""

import pytest

from pipeline.benchmarks.ilias import truth
from pipeline.errors import BadInput
from tests.ilias import drawn


def test_lists_are_sorted_and_groups_follow_their_positives(tmp_path):
    drawn.ilias(tmp_path)
    lists = truth.read(tmp_path)
    assert lists.image_queries == sorted(lists.image_queries) and lists.positives == sorted(lists.positives)
    lines = dict(line.split(",", 1) for line in (tmp_path / "image_ids/positive_ids.txt").read_text().splitlines())
    for place, key in enumerate(lists.positives):
        assert lines[key] == f"{lists.groups['scale'][place]},{lists.groups['clutter'][place]:.0f}"


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("positive_ids.txt", "a_0/pos/P0.jpg\n", "expected id,scale,clutter a line"),
        ("positive_ids.txt", "a_0/pos/P0.jpg,much,1\n", "expected id,scale,clutter a line"),
        ("positive_ids.txt", "", "expected the id of a positive a line, it has none"),
        ("image_query_ids.txt", "\n", "expected the id of a query a line, it has none"),
        ("image_query_ids.txt", "a_0/query/Q0.jpg\nb\na_0/query/Q0.jpg\n", "a_0/query/Q0.jpg stands twice"),
        ("image_query_ids.txt", b"\xff\n", "expected the ids of ILIAS"),
        ("image_query_ids.txt", None, "layout ilias expects image_query_ids.txt"),
    ],
)
@pytest.mark.faults("damage")
def test_what_is_wrong_with_a_list_is_said(tmp_path, tried, name, text, said):
    drawn.ilias(tmp_path)
    path = tmp_path / "image_ids" / name
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=said):
        truth.read(tmp_path)
