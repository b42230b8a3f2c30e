"""What will be built, decided before any pixel is read: labels, splits, the images of every shard."""

import csv
import itertools
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.config import Records, Run
from pipeline.errors import BadInput
from tfrecords import labels as label_spaces
from tfrecords.labels import SPLITS, ClassId, LabelSpace
from tfrecords.sources import Item, Listing, list_configured
from tfrecords.splits import Lowest, digest, split_classes, split_item


class Chosen(NamedTuple):
    rank: tuple  # by which the images of a class are taken: (hash of the key, source, key)
    source: str
    item: Item


@dataclass(frozen=True)
class Chunk:
    """The images that go into one shard. What is rejected makes the shard smaller, never another one larger."""

    stem: str  # <source>-<split>-<NN>; the shard's name ends in the count of what was kept
    source: str
    split: str
    count: int
    tasks: bytes  # pickled list[(Item, label)]: a fifth of the objects' memory

    def items(self) -> list[tuple[Item, int]]:
        return pickle.loads(self.tasks)


@dataclass
class Plan:
    """The choice of the first round; later rounds fill the places of rejected images.

    Attributes:
        space: the labels.
        splits: class → split, where whole classes are split; empty where single images are.
        chunks: one a shard, in order.
        last: class → rank of the last image taken: the next round goes on behind it.
        caps: class → most images.
        seen: class → images listed.
        too_small: images of classes below the minimum: (key, source, class, reason).
    """

    space: LabelSpace
    splits: dict[ClassId, str]
    chunks: list[Chunk]
    last: dict[ClassId, tuple]
    caps: dict[ClassId, int]
    seen: dict[ClassId, int]
    too_small: list[tuple[str, str, str, str]]


def list_sources(config: Run) -> dict[str, Listing]:
    """Source name → its listing, in the config's order.

    Raises:
        BadInput: no sources, a name twice, unfit for a file name or with a split in it, or what `list_source`
            finds wrong.
    """
    if not config.records.sources:
        raise BadInput("expected at least one source under records.sources, found none")
    listings: dict[str, Listing] = {}
    for source in config.records.sources:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", source.name):
            raise BadInput(
                f"source name {source.name!r}: expected letters, digits, '_', '.' and '-' (it names files)"
            )
        if read_as := [split for split in SPLITS if split in source.name.split("-")[1:]]:
            raise BadInput(
                f"source name {source.name!r}: all its shards would be read as {read_as[0]}, whose glob is "
                f"*-{read_as[0]}-*: write it with '_' ({source.name.replace('-', '_')})"
            )
        if source.name in listings:
            raise BadInput(f"two sources are called {source.name!r}: names must differ")
        listings[source.name] = list_configured(source, config.data_root)
    return listings


def make(records: Records, listings: Mapping[str, Listing]) -> Plan:
    """The plan of the first round.

    Raises:
        BadInput: a source without images, a bad merge file, a key twice.
    """
    shares = {split: getattr(records.split, split) for split in SPLITS}
    listed = {source: list(listing.classes) for source, listing in listings.items()}
    merged = read_merges(Path(records.merge_classes), listed) if records.merge_classes else {}
    source_caps = {source.name: source.cap_per_class or records.cap_per_class for source in records.sources}
    caps = {
        (source, name): source_caps[source]
        for source, own in listed.items()
        for name in own
        if (source, name) not in merged
    }
    choosers = {known: Lowest(cap) for known, cap in caps.items()}
    found = choose(listings, choosers, merged)
    for source, count in found.items():
        if not count:
            raise BadInput(f"source {source}: no images found: is its root right?")
    too_small, left_out = [], set()
    for (source, name), chooser in choosers.items():
        if chooser.seen < max(records.min_per_class, 1):
            left_out.add((source, name))
            reason = f"class of {chooser.seen} images, records.min_per_class is {records.min_per_class}"
            too_small += [
                (one.item.key, one.source, one.item.class_name, reason) for _, one in chooser.taken()
            ]
    names = {
        (source, name): human for source, listing in listings.items() for name, human in listing.names.items()
    }
    space = label_spaces.build(listed, left_out, merged, names)
    if not space.classes:
        raise BadInput(
            f"no class has records.min_per_class={records.min_per_class} images; the largest has "
            f"{max(chooser.seen for chooser in choosers.values())}"
        )
    splits: dict[ClassId, str] = {}
    if records.split.by == "class":
        for source in listings:
            own_classes = [name for of, name in space.classes if of == source]
            dealt = split_classes(own_classes, shares)
            splits |= {(source, name): split for name, split in dealt.items()}
    chosen = {known: [one for _, one in choosers[known].taken()] for known in space.classes}
    return Plan(
        space=space,
        splits=splits,
        chunks=chunk(records, space, splits, chosen, first={}),
        last={known: ones[-1].rank for known, ones in chosen.items() if ones},
        caps={known: caps[known] for known in space.classes},
        seen={known: choosers[known].seen for known in space.classes},
        too_small=too_small,
    )


def choose(
    listings: Mapping[str, Listing], choosers: Mapping[ClassId, Lowest], merged: Mapping[ClassId, ClassId]
) -> dict[str, int]:
    """Offers every listed image to its class's chooser; opens no image. Returns source → images listed."""
    found = dict.fromkeys(listings, 0)
    for order, (source, listing) in enumerate(listings.items()):
        for item in listing.items:
            known = (source, item.class_name)
            chooser = choosers.get(merged.get(known, known))
            found[source] += 1
            if chooser is not None:
                rank = (digest("cap", item.key), order, item.key)
                chooser.offer(rank, Chosen(rank, source, item))
    return found


def chunk(
    records: Records,
    space: LabelSpace,
    splits: Mapping[ClassId, str],
    chosen: Mapping[ClassId, Iterable[Chosen]],
    first: Mapping[tuple[str, str], int],
) -> list[Chunk]:
    """Chosen images → chunks of `images_per_shard`, in the order of their hash: classes are mixed in every shard.

    Args:
        first: (source, split) → number of its first new chunk; 0 where it is missing.
    """
    shares = {split: getattr(records.split, split) for split in SPLITS}
    labels = space.labels()
    groups: dict[tuple[str, str], list[tuple[int, str, Item, int]]] = {
        (source, split): [] for source in space.sources for split in SPLITS
    }
    for known, ones in chosen.items():
        for one in ones:
            key = one.item.key
            split = splits[known] if splits else split_item(key, shares)
            groups[one.source, split].append((digest("order", key), key, one.item, labels[known]))
    chunks = []
    for (source, split), group in groups.items():
        group.sort(key=lambda entry: entry[:2])
        for before, after in itertools.pairwise(group):
            if before[:2] == after[:2]:
                raise BadInput(f"source {source} lists the key {after[1]!r} twice: keys must differ")
        for number, start in enumerate(
            range(0, len(group), records.images_per_shard), first.get((source, split), 0)
        ):
            part = [(item, label) for _, _, item, label in group[start : start + records.images_per_shard]]
            chunks.append(
                Chunk(
                    f"{source}-{split}-{number:02d}", source, split, len(part), pickle.dumps(part, protocol=5)
                )
            )
    return chunks


def refill(
    records: Records,
    listings: Mapping[str, Listing],
    plan: Plan,
    kept: Mapping[ClassId, int],
    made: list[Chunk],
) -> list[Chunk]:
    """Chunks that fill the places of rejected images with the next ones in the order of the hash.

    Lists the sources again for the classes that lack images and have more; nothing else is kept in memory for it.

    Args:
        kept: class → images in the shards so far.
        made: all chunks so far.

    Returns:
        New chunks; empty when every class is full or used up. `plan.last` moves on.
    """
    missing = {
        known: plan.caps[known] - kept.get(known, 0)
        for known in plan.space.classes
        if kept.get(known, 0) < plan.caps[known] <= plan.seen[known] and known in plan.last
    }
    if not missing:
        return []
    choosers = {known: Lowest(count, after=plan.last[known]) for known, count in missing.items()}
    choose(listings, choosers, plan.space.merged)
    chosen = {known: [one for _, one in chooser.taken()] for known, chooser in choosers.items()}
    for known, ones in chosen.items():
        if ones:
            plan.last[known] = ones[-1].rank
        else:
            del plan.last[known]  # used up
    first: dict[tuple[str, str], int] = {}
    for one_chunk in made:
        group = (one_chunk.source, one_chunk.split)
        first[group] = first.get(group, 0) + 1
    return chunk(records, plan.space, plan.splits, chosen, first)


def read_merges(path: Path, listed: Mapping[str, Iterable[str]]) -> dict[ClassId, ClassId]:
    """CSV `source,class,into_source,into_class` → class → the class whose label it takes.

    Raises:
        BadInput: no such file, other columns, an unknown class, a class merged twice, into itself or into a
            class that is merged itself.
    """
    known = {(source, name) for source, own in listed.items() for name in own}
    columns = ["source", "class", "into_source", "into_class"]
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"records.merge_classes: cannot read {path}: {error}") from None
    if not rows or rows[0] != columns:
        raise BadInput(
            f"{path}: expected the columns {','.join(columns)}, got {','.join(rows[0]) if rows else 'none'}"
        )
    merged: dict[ClassId, ClassId] = {}
    for number, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != 4:
            raise BadInput(f"{path}, line {number}: expected 4 fields, got {len(row)}")
        one, into = (row[0], row[1]), (row[2], row[3])
        for given in (one, into):
            if given not in known:
                raise BadInput(f"{path}, line {number}: no class {given[1]!r} in source {given[0]!r}")
        if one in merged or one == into:
            raise BadInput(
                f"{path}, line {number}: class {one[1]!r} of {one[0]} is merged twice or into itself"
            )
        merged[one] = into
    for one, into in merged.items():
        if into in merged:
            raise BadInput(
                f"{path}: {one[1]!r} is merged into {into[1]!r}, which is merged itself: name the last one"
            )
    return merged
