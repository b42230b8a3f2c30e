"""Kinds of edits of what records are made of, and of the records themselves."""

from tests.faults.edits import (
    Kind,
    appends,
    both,
    copies,
    cut,
    draws,
    flipped,
    moves,
    redraws,
    removes,
    reworded,
    rewrites,
    sets,
    touches,
)  # fmt: skip

SOURCE = {"layout": "folder", "name": "third", "root": "spare/third"}
MERGED = {"records.merge_classes": "{world}/merges.csv"}
TRAIN, TEST = "run/records/*-train-*.tfrec", "run/records/*-test-*.tfrec"
IMAGE = "images/own/*/*.jpg"


def rebuilt(world, chance) -> None:
    """The issue's own case: the folder is removed, as guie advises, and built from another config."""
    removes("run/records")(world, chance)
    world.set("records.cap_per_class", 3)
    world.guie(command="tfrecords")


OF_KEYS = {
    "cap_per_class lower": Kind(sets("records.cap_per_class", 3), "records"),
    "cap_per_class higher": Kind(sets("records.cap_per_class", 5), "records", {"records.cap_per_class": 4}),
    "min_per_class": Kind(sets("records.min_per_class", 3), "records"),
    "image_size_px": Kind(sets("records.image_size_px", 20), "records"),
    "jpeg_quality": Kind(sets("records.jpeg_quality", 80), "records"),
    "images_per_shard": Kind(sets("records.images_per_shard", 7), "records"),
    "split shares": Kind(
        both(sets("records.split.train", 0.4), sets("records.split.test", 0.35)), "records"
    ),
    "split.by": Kind(sets("records.split.by", "item"), "records"),
    "a source left out": Kind(sets("records.split.left_out", ["more"]), "records"),
    "a source's own split": Kind(sets("records.sources.0.split", "train"), "records"),
    "a source added": Kind(appends("records.sources", SOURCE), "records"),
    "a source removed": Kind(
        lambda world, _: world.values["records"]["sources"].pop(), "records"
    ),
    "a source renamed": Kind(sets("records.sources.0.name", "others"), "records"),
    "a source's own cap": Kind(sets("records.sources.0.cap_per_class", 3), "records"),
    "a source's root": Kind(sets("records.sources.0.root", "other/images/own"), "records"),
    "merge_classes given": Kind(sets("records.merge_classes", "{world}/merges.csv"), "records"),
    "merge_classes edited": Kind(rewrites("merges.csv", lambda text: text.replace(b"c1", b"c2")), "records", MERGED),
    "data_root: another tree": Kind(sets("data_root", "{world}/other"), "records"),
    "workers": Kind(sets("records.workers", 2), "config", costs=False),
    "near_duplicates": Kind(sets("records.near_duplicates", True), "records"),
}  # fmt: skip

OF_IMAGES = {
    "an image added": Kind(draws("images/own/c0/9.jpg"), "records"),
    "an image removed": Kind(removes(IMAGE), "records"),
    "an image overwritten": Kind(redraws(IMAGE), "records"),
    "an image overwritten, its time kept": Kind(redraws(IMAGE, keeps_time=True), "records"),
    "an image renamed": Kind(moves(IMAGE, lambda path: path.with_name("9.jpg")), "records"),
    "an image in another class": Kind(moves(IMAGE, lambda path: path.parents[1] / "c9" / "9.jpg"), "records"),
    "an image cut off": Kind(rewrites(IMAGE, cut), "records", {"records.max_reject_share": 0.9}),
    "a class added": Kind(both(draws("images/own/c9/0.jpg"), draws("images/own/c9/1.jpg")), "records"),
    "a class removed": Kind(removes("images/own/c[0-6]"), "records"),
    "a class renamed": Kind(moves("images/own/c[0-6]", lambda path: path.with_name("d")), "records"),
    "a tree replaced in place, its times kept": Kind(
        both(*(copies(f"other/images/own/c{number}", f"images/own/c{number}", True) for number in range(7))), "records"
    ),
    "an image touched": Kind(touches(IMAGE), costs=False),
}  # fmt: skip

OF_RECORDS = {
    "records removed": Kind(removes("run/records")),
    "records rebuilt from another config": Kind(rebuilt, "records"),
    "a training shard deleted": Kind(removes(TRAIN)),
    "a test shard deleted": Kind(removes(TEST)),
    "a training shard cut off": Kind(rewrites(TRAIN, cut)),
    "a test shard cut off": Kind(rewrites(TEST, cut)),
    "a bit of a training shard": Kind(rewrites(TRAIN, flipped)),
    "a bit of a training shard, its time kept": Kind(rewrites(TRAIN, flipped, keeps_time=True)),
    "a bit of a test shard, its time kept": Kind(rewrites(TEST, flipped, keeps_time=True)),
    "a strange shard": Kind(copies("other/shards", "run/records")),
    "an index deleted": Kind(removes("run/records/*.index")),
    "an index cut off": Kind(rewrites("run/records/*.index", cut)),
    "labels.json deleted": Kind(removes("run/records/labels.json")),
    "labels.json edited": Kind(rewrites("run/records/labels.json", reworded("classes", []))),
    "manifest.json deleted": Kind(removes("run/records/manifest.json")),
    "manifest.json edited": Kind(rewrites("run/records/manifest.json", reworded("images", 1))),
    "manifest.json cut off": Kind(rewrites("run/records/manifest.json", cut)),
    "rejects.csv deleted": Kind(removes("run/records/rejects.csv")),
    "rejects.csv edited": Kind(rewrites("run/records/rejects.csv", lambda text: text + b"a,b,c,d\n")),
    "duplicates.csv edited": Kind(rewrites("run/records/duplicates.csv", lambda text: text + b"a,b,c,d\n")),
}  # fmt: skip

KINDS = {**OF_KEYS, **OF_IMAGES, **OF_RECORDS}
