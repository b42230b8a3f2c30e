"""GLDv2 retrieval: `retrieval_solution_v2.1.csv` (`id,images,Usage`), `index.csv`, and the images by three letters.

Images lie in `index/a/b/c/abc….jpg` and `test/…`, or in the public tars `index/images_000.tar` …, which are read as
they are. The tables stand in the root, beside the images of their split, in `metadata/` or in `ground_truth/`.

What a query finds is a list of images, not a landmark: the class of a query is its id, the classes of an index image
are the queries that it answers (NO_CLASS: none). Queries of the usage Ignored count nowhere.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.errors import BadInput
from tfrecords.listing.archives import Reader, Store, open_archive
from tfrecords.listing.items import NO_CLASS, Item, Lazily, Listing, existing_folder, file_in, refuse
from tfrecords.listing.layout import Layout, Size
from tfrecords.listing.tables import file_rows

SOLUTION = "retrieval_solution_v2.1.csv"
USAGES = {"public": ("Public",), "private": ("Private",), "query": ("Public", "Private"), "ignored": ("Ignored",)}
# Published: 1,129 queries that count, 117,577 test images in all.
SIZES = {
    "query": Size(1_129, 1_129),
    "public": Size(379, 379),
    "private": Size(750, 750),
    "ignored": Size(1, 116_448),
    "index": Size(1_130, 761_757),
}


def gldv2_retrieval(root: Path, split: str = "query") -> Listing:
    """Lists one split in the order of its table.

    `split`: query (public and private), public, private, ignored or index. Raises BadInput: a table or the images are
    missing; a table is damaged; an id is no image id.
    """
    existing_folder(root, "the folder of GLDv2")
    solution = _table(root, SOLUTION, "test")
    folder = "index" if split == "index" else "test"
    existing_folder(root / folder, f"the images of GLDv2 in {folder}/a/b/c/ or {folder}/images_000.tar …")
    queries = {
        query: images
        for query, images, usage in _queries(solution)
        if usage in USAGES.get(split, ("Public", "Private"))
    }
    if split != "index":
        answered = split != "ignored"
        return Listing(list(queries) if answered else [NO_CLASS], Lazily(_query_items, root, list(queries), answered))
    table = _table(root, "index.csv", "index")
    answers: dict[str, list[str]] = {}
    for query, images in queries.items():
        for image in images:
            answers.setdefault(image, []).append(query)
    return Listing([*queries, NO_CLASS], Lazily(_index_items, root, table, answers))


def _query_items(root: Path, queries: list[str], answered: bool) -> Iterator[Item]:
    read = _Images(root / "test")
    for query in queries:
        yield Item(query, query if answered else NO_CLASS, read(query))


def _index_items(root: Path, table: Path, answers: dict[str, list[str]]) -> Iterator[Item]:
    read = _Images(root / "index")
    for (image,) in file_rows(table, ("id",)):
        first, *further = answers.get(_image_id(table, image), (NO_CLASS,))
        yield Item(image, first, read(image), tuple(further))


def _queries(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Query, the images that it finds, usage."""
    for query, images, usage in file_rows(path, ("id", "images", "Usage")):
        if usage not in ("Public", "Private", "Ignored"):
            raise BadInput(f"{path}: query {query[:60]}: expected Usage Public, Private or Ignored, got {usage[:60]!r}")
        found = [] if images == "None" or usage == "Ignored" else images.split()
        yield _image_id(path, query), list(dict.fromkeys(found)), usage


def _image_id(path: Path, text: str) -> str:
    if len(text) < 3 or not (text.isascii() and text.isalnum()):
        raise BadInput(f"{path}: expected an image id, three or more letters and digits, got {text[:60]!r}")
    return text


def _table(root: Path, name: str, folder: str) -> Path:
    return file_in(root, ("", folder, "metadata", "ground_truth"), name, "gldv2_retrieval")


class _Images:
    """Readers of the images of a folder, by id."""

    def __init__(self, folder: Path):
        tars = sorted(folder.glob("images_*.tar"))
        packed: dict[str, Reader] = {}
        for path in tars:
            for name, reader in (open_archive(path).readers or {}).items():
                packed[name.rsplit("/", 1)[-1].removesuffix(".jpg")] = reader
        self.folder, self.packed = Store(folder), packed if tars else None

    def __call__(self, image: str) -> Reader:
        if self.packed is None:
            return self.folder.reader(f"{image[0]}/{image[1]}/{image[2]}/{image}.jpg")
        return self.packed.get(image) or partial(refuse, f"{image}.jpg is in none of the tars")


LAYOUT = Layout(
    "gldv2_retrieval", gldv2_retrieval, SIZES, searched={"query": "index", "public": "index", "private": "index"}
)
