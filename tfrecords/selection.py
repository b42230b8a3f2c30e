"""What each shard will hold, decided before any pixel is read: labels, splits, and the images by their keys' hashes."""

import itertools
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import Records, Run
from pipeline.errors import BadInput
from tfrecords import labels as label_spaces
from tfrecords.labels import SPLITS, ClassId, LabelSpace
from tfrecords.listing.tables import file_rows
from tfrecords.sources import Item, Listing, list_configured
from tfrecords.splits import Lowest, digest, split_classes, split_item

Candidate = tuple[str, Item]  # source, image


@dataclass(frozen=True)
class Chunk:
    """The images selected for one shard. A rejected image makes its shard smaller, and no other shard larger."""

    stem: str  # <source>-<split>-<NN>; the shard's file name ends in the count of images kept
    source: str
    split: str
    count: int
    tasks: bytes  # pickled list[(Item, label)]: a fifth of the objects' memory

    def items(self) -> list[tuple[Item, int]]:
        return pickle.loads(self.tasks)


@dataclass
class Selection:
    """The images of the first round. Later rounds replace those that were rejected."""

    space: LabelSpace  # the labels
    splits: dict[ClassId, str]  # class → split, where whole classes are split; empty where images are
    chunks: list[Chunk]  # one for each shard, in order
    last: dict[ClassId, tuple]  # class → rank of the last image selected; the next round goes on after it
    caps: dict[ClassId, int]  # class → most images
    listed: dict[ClassId, int]  # class → images found
    too_small: list[tuple[str, str, str, str]]  # images of classes below the minimum: (key, source, class, reason)
    left_out: list[tuple[str, str, str, str]]  # images that records.leave_out names: the same


@dataclass(frozen=True)
class Without:
    """The images of a listing without those of some keys."""

    every: Iterable[Item]
    keys: frozenset[str]

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self.every if item.key not in self.keys)

    def left_out(self) -> Iterator[Item]:
        return (item for item in self.every if item.key in self.keys)


def list_sources(config: Run) -> dict[str, Listing]:
    """Source name → its listing, in the config's order, without the images that records.leave_out names.

    Raises BadInput: no sources, a name twice, a name that cannot stand in a file name or contains a split's, or what
    `list_source` and `read_left_out` raise.
    """
    if not config.records.sources:
        raise BadInput("expected at least one source under records.sources, found none")
    listings: dict[str, Listing] = {}
    for source in config.records.sources:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", source.name):
            raise BadInput(f"source name {source.name!r}: expected letters, digits, '_', '.' and '-' (it names files)")
        if splits := [split for split in SPLITS if split in source.name.split("-")[1:]]:
            raise BadInput(
                f"source name {source.name!r}: all its shards would be read as {splits[0]}, whose glob is "
                f"*-{splits[0]}-*: write it with '_' ({source.name.replace('-', '_')})"
            )
        if source.name in listings:
            raise BadInput(f"two sources are called {source.name!r}: names must differ")
        listings[source.name] = list_configured(source, config.data_root)
    if config.records.leave_out:
        for name, keys in read_left_out(Path(config.records.leave_out), list(listings)).items():
            listings[name] = replace(listings[name], items=Without(listings[name].items, keys))
    return listings


def select(records: Records, listings: Mapping[str, Listing]) -> Selection:
    """Selects the images of the first round.

    Raises BadInput: a source without images, no class large enough, a bad merge file, a key twice, a source left out
    that is none of the sources, images to leave out of which there is none.
    """
    if unknown := sorted(set(records.split.left_out) - set(listings)):
        raise BadInput(f"records.split.left_out: no source {unknown[0]!r}; records.sources has {', '.join(listings)}")
    classes = {source: list(listing.classes) for source, listing in listings.items()}
    merged = read_merges(Path(records.merge_classes), classes) if records.merge_classes else {}
    source_caps = {source.name: source.cap_per_class or records.cap_per_class for source in records.sources}
    class_ids = ((source, name) for source, names in classes.items() for name in names)
    caps = {class_id: source_caps[class_id[0]] for class_id in class_ids if class_id not in merged}
    lowest = {class_id: Lowest(cap) for class_id, cap in caps.items()}
    for source, count in offer_items(listings, lowest, merged).items():
        if not count:
            raise BadInput(f"source {source}: no images found: is its root right?")
    left_out_images = _left_out_images(records, listings)
    too_small, left_out = [], set()
    for class_id, candidates in lowest.items():
        if candidates.seen < max(records.min_per_class, 1):
            left_out.add(class_id)
            reason = f"class of {candidates.seen} images, records.min_per_class is {records.min_per_class}"
            too_small += [(item.key, source, item.class_name, reason) for _, (source, item) in candidates.taken()]
    names = {
        (source, name): readable for source, listing in listings.items() for name, readable in listing.names.items()
    }
    space = label_spaces.build(classes, left_out, merged, names)
    if not space.classes:
        most = max(candidates.seen for candidates in lowest.values())
        raise BadInput(f"no class has records.min_per_class={records.min_per_class} images; the largest has {most}")
    splits: dict[ClassId, str] = {}
    if records.split.by == "class":
        for source in listings:
            labelled = [name for of, name in space.classes if of == source]
            of_class = split_classes(labelled, _shares(records))
            splits |= {(source, name): split for name, split in of_class.items()}
        splits |= whole_classes(records.whole_splits, space, merged)
    taken = {class_id: lowest[class_id].taken() for class_id in space.classes}
    return Selection(
        space=space,
        splits=splits,
        chunks=into_chunks(records, space, splits, taken, first={}),
        last={class_id: ranked[-1][0] for class_id, ranked in taken.items() if ranked},
        caps={class_id: caps[class_id] for class_id in space.classes},
        listed={class_id: lowest[class_id].seen for class_id in space.classes},
        too_small=too_small,
        left_out=left_out_images,
    )


def whole_classes(whole: Mapping[str, str], space: LabelSpace, merged: Mapping[ClassId, ClassId]) -> dict[ClassId, str]:
    """Class → split, of the classes of sources that go to one split whole (`whole`).

    A class of another source that is merged with one of them goes there too: its images would else be trained on.
    Raises BadInput where two sources that a class is of go to two splits.
    """
    members: dict[ClassId, list[ClassId]] = {class_id: [class_id] for class_id in space.classes}
    for one, into in merged.items():
        if into in members:
            members[into].append(one)
    found: dict[ClassId, str] = {}
    for class_id, merged_here in members.items():
        of_source = {source: whole[source] for source, _ in merged_here if source in whole}
        if len(set(of_source.values())) > 1:
            came = ", ".join(f"{source} goes to {split}" for source, split in of_source.items())
            mend = "merge classes of one split, or give both sources the same"
            raise BadInput(f"records.merge_classes: class {class_id[1]!r} would be in two splits: {came}; {mend}")
        if of_source:
            found[class_id] = next(iter(of_source.values()))
    return found


def offer_items(
    listings: Mapping[str, Listing], lowest: Mapping[ClassId, Lowest], merged: Mapping[ClassId, ClassId]
) -> dict[str, int]:
    """Offers every listed image to its class's `Lowest`; opens no image. Returns source → images listed."""
    listed = dict.fromkeys(listings, 0)
    for order, (source, listing) in enumerate(listings.items()):
        for item in listing.items:
            class_id = (source, item.class_name)
            candidates = lowest.get(merged.get(class_id, class_id))
            listed[source] += 1
            if candidates is not None:
                candidates.offer((digest("cap", item.key), order, item.key), (source, item))
    return listed


def into_chunks(
    records: Records,
    space: LabelSpace,
    splits: Mapping[ClassId, str],
    taken: Mapping[ClassId, Sequence[tuple[tuple, Candidate]]],
    first: Mapping[tuple[str, str], int],
) -> list[Chunk]:
    """Selected images → chunks of `images_per_shard`, in the order of a hash: every shard holds mixed classes.

    `taken`: class → (rank, candidate) of its images. `first`: (source, split) → number of its first new chunk; 0 where
    it is missing. Raises BadInput: a source has a key twice.
    """
    shares, labels, whole = _shares(records), space.labels(), records.whole_splits
    groups: dict[tuple[str, str], list[tuple[int, str, Item, int]]] = {
        (source, split): [] for source in space.sources for split in SPLITS
    }
    for class_id, ranked in taken.items():
        for _, (source, item) in ranked:
            split = splits[class_id] if splits else whole.get(source) or split_item(item.key, shares)
            groups[source, split].append((digest("order", item.key), item.key, item, labels[class_id]))
    chunks, size = [], records.images_per_shard
    for (source, split), group in groups.items():
        group.sort(key=lambda entry: entry[:2])
        for before, after in itertools.pairwise(group):
            if before[:2] == after[:2]:
                raise BadInput(f"source {source} lists the key {after[1]!r} twice: keys must differ")
        for number, start in enumerate(range(0, len(group), size), first.get((source, split), 0)):
            part = [(item, label) for _, _, item, label in group[start : start + size]]
            tasks = pickle.dumps(part, protocol=5)
            chunks.append(Chunk(f"{source}-{split}-{number:02d}", source, split, len(part), tasks))
    return chunks


def select_replacements(
    records: Records,
    listings: Mapping[str, Listing],
    selection: Selection,
    kept: Mapping[ClassId, int],
    made: list[Chunk],
) -> list[Chunk]:
    """New chunks that replace the rejected images of each class by its next ones in the order of the hash.

    Lists the sources again, since memory holds no more candidates than the cap, and moves `selection.last` on. `kept`
    counts the images of each class in the shards so far, `made` are all chunks so far. Returns an empty list when every
    class is full or used up.
    """
    missing = {
        class_id: cap - kept.get(class_id, 0)
        for class_id, cap in selection.caps.items()
        if kept.get(class_id, 0) < cap <= selection.listed[class_id] and class_id in selection.last
    }
    if not missing:
        return []
    lowest = {class_id: Lowest(count, after=selection.last[class_id]) for class_id, count in missing.items()}
    offer_items(listings, lowest, selection.space.merged)
    taken = {class_id: candidates.taken() for class_id, candidates in lowest.items()}
    for class_id, ranked in taken.items():
        if ranked:
            selection.last[class_id] = ranked[-1][0]
        else:
            del selection.last[class_id]  # used up
    first = Counter((chunk.source, chunk.split) for chunk in made)
    return into_chunks(records, selection.space, selection.splits, taken, first)


def read_merges(path: Path, classes: Mapping[str, Iterable[str]]) -> dict[ClassId, ClassId]:
    """Reads a CSV of `source,class,into_source,into_class`: class → the class whose label it takes.

    `classes`: source → its classes. Raises BadInput: no such file, a missing column, an unknown class, a class that is
    merged twice, into itself or into a class that is merged itself.
    """
    known = {(source, name) for source, names in classes.items() for name in names}
    merged: dict[ClassId, ClassId] = {}
    for source, name, into_source, into_name in file_rows(path, ("source", "class", "into_source", "into_class")):
        one, into = (source, name), (into_source, into_name)
        for given in (one, into):
            if given not in known:
                raise BadInput(f"{path}: no class {given[1]!r} in source {given[0]!r}")
        if one in merged or one == into:
            raise BadInput(f"{path}: class {name!r} of {source} is merged twice or into itself")
        merged[one] = into
    for one, into in merged.items():
        if into in merged:
            raise BadInput(f"{path}: {one[1]!r} is merged into {into[1]!r}, which is merged itself: name the last one")
    return merged


def read_left_out(path: Path, sources: Sequence[str]) -> dict[str, frozenset[str]]:
    """Reads a CSV with `source,key`: source → the keys of its images that are not taken.

    Raises BadInput: no such file, a missing column, a source that is none of `sources`.
    """
    keys: dict[str, set[str]] = {}
    for source, key in file_rows(path, ("source", "key")):
        if source not in sources:
            raise BadInput(
                f"{path}: no source {source!r}, records.sources has {', '.join(sources)}: "
                "give `guie leaks` the records, or the images as SOURCE=DATA"
            )
        keys.setdefault(source, set()).add(key)
    return {source: frozenset(found) for source, found in keys.items()}


def _left_out_images(records: Records, listings: Mapping[str, Listing]) -> list[tuple[str, str, str, str]]:
    """(key, source, class, reason) of the images that records.leave_out names. Raises BadInput where there is none."""
    asked = {source: listing.items for source, listing in listings.items() if isinstance(listing.items, Without)}
    reason = f"named in {Path(records.leave_out).name} (records.leave_out)"
    found = [
        (item.key, source, item.class_name, reason) for source, items in asked.items() for item in items.left_out()
    ]
    if asked and not found:
        source, items = next(iter(asked.items()))
        raise BadInput(
            f"{records.leave_out}: no image of the sources has its keys, such as {min(items.keys)} of {source}"
        )
    return found


def _shares(records: Records) -> dict[str, float]:
    return {split: getattr(records.split, split) for split in SPLITS}
