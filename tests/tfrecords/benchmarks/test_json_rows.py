"""`json_rows` against `json.load` of the whole file, read in pieces of a few characters; damage is one line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput
from tfrecords.listing import json_rows as module
from tfrecords.listing.json_rows import json_rows

plain = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=8)
objects = st.dictionaries(st.text(max_size=5), plain | st.lists(plain, max_size=3) | st.dictionaries(st.text(), plain))


@settings(max_examples=80, deadline=None)
@given(st.lists(objects, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_rows_are_those_of_the_whole_file_wherever_the_pieces_end(tmp_path_factory, rows, piece, indent, ascii_only):
    path = tmp_path_factory.getbasetemp() / "rows.json"
    written = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(written.encode("utf-8", "replace"))
    whole = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_CHARS", piece)
        assert list(json_rows(path)) == whole
        under = {"info": {"a": [1]}, "before": rows, "text": "t", "wanted": rows, "behind": []}
        path.write_bytes(json.dumps(under, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace"))
        assert list(json_rows(path, "wanted")) == whole


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "", "behind row 0: expected a list of objects, got ''"),
        ('{"a": 1}', "", "expected a list of objects"),
        ('[{"a": 1}, 5]', "", "behind row 1: expected an object, got '5]'"),
        ('[{"a": 1}', "", "behind row 1: expected `,` or `]`, got ''"),
        ('[{"a": 1},', "", "behind row 1: expected an object"),
        ('[{"a": 1}, {"a": }]', "", "behind row 1: expected Expecting value"),
        ('[{"a": "cut off', "", "behind row 0"),
        ('[{"a": 1}] more', "", "expected nothing behind the list, got 'more'"),
        ("[{'a': 1}]", "", "behind row 0"),
        ("[" + '{"a":' * 100_000, "", ""),
        ('[{"a": 1}]', "rows", "expected an object with the key 'rows'"),
        ('{"other": []}', "rows", "expected a list under the key 'rows', there is none"),
        ('{"rows": 5}', "rows", "expected a list under 'rows'"),
        ('{"first": 5, "rows": []}', "rows", "expected a list under 'first'"),
        ('{"rows": [{}]', "rows", "expected `,` or `}`"),
    ],
)
def test_damaged_json_is_one_line_that_names_the_row(tmp_path, text, field, says):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        list(json_rows(path, field))
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_text_or_not_there_is_one_line(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe[]")
    for name, says in (("bytes.json", "is not readable as JSON"), ("gone.json", "No such file")):
        with pytest.raises(BadInput, match=says):
            list(json_rows(tmp_path / name))


def test_an_object_without_an_end_is_refused_before_the_whole_file_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE_CHARS", 1 << 10)
    monkeypatch.setattr(module, "LONGEST_CHARS", 1 << 12)
    path = tmp_path / "rows.json"
    path.write_text('[{"a": "' + "x" * (1 << 20))
    text = None

    class Watched(module._Text):
        def __init__(self, *arguments):
            nonlocal text
            super().__init__(*arguments)
            text = self

    monkeypatch.setattr(module, "_Text", Watched)
    with pytest.raises(BadInput, match="behind row 0"):
        list(json_rows(path))
    assert len(text.held) < 1 << 13
