"""The config for somebody's images and encoder: split, sizes, phases. Pure; each choice with the line that says it.

The recipe is that of configs/real_images.yaml: what each part of it is worth stands in docs/ablation.md.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

from pipeline.config import (
    Augment,
    Embedder,
    Encoder,
    Export,
    Keep,
    Loss,
    Optimizer,
    Phase,
    Records,
    Run,
    Sampling,
    Score,
    Split,
    Train,
)
from pipeline.errors import BadInput
from pipeline.fitting.looking import ClassId, Found
from tfrecords.splits import split_classes, split_item

FEWEST_CLASSES = 10  # of two images or more, that are split by class; fewer are split by image
FEWEST_TEST_CLASSES = 5  # below it a score says little, see retrieval.intervals
VALIDATED_CLASSES = 200  # from here on a tenth of the classes validates; fewer teach more than they tell
FEWEST_IMAGES = 8  # of all classes together
FEWEST_TUNED = 400  # training images below which the encoder stays frozen
CAP, LARGEST_CAP = 50, 200  # images of a class: as the records have it by default; of few classes
FEW_CLASSES = 40  # below it a class may have more images than CAP
LEAST_CAP = 4
TEST_SHARE, VALIDATION_SHARE = 0.3, 0.1
DEFAULT_MINUTES = 15.0
FEATURE_COST = 1.5  # an image's features in forward passes: it is decoded and resized besides
STEP_COST = 2.5  # an image of a fine-tuning step in forward passes of its pixels: MobileNet v1 on two cores
OVERHEAD_SECONDS = 60.0  # imports, compiling, records, export, report
PLANNED = 0.8  # of the time: rates fall while other work runs
SECOND_SIZE = 5 / 7  # 160 px beside 224: two sizes are worth 0.015 on unseen classes
SMALLEST_SECOND_PX = 96
EPOCHS, LEAST_EPOCHS = 4.0, 1.0
FROZEN, TOO = "the encoder stays frozen: to tune it ", " to tune the encoder, too"


@dataclass(frozen=True)
class Measured:
    """What the encoder at hand is, and how fast it is here."""

    width: int  # of its features
    image_size_px: int
    images_per_second: float  # forward, at that size
    transformer: bool
    compiled: bool = False  # by XLA, which makes transformers faster
    second_px: int | None = None  # a smaller size that it runs at, too; None: it takes one alone


@dataclass(frozen=True)
class Chosen:
    run: Run
    said: list[str]
    comments: dict[str, str]  # dotted key of the config → why it has its value
    advice: str = ""  # what more time would buy; empty: nothing


@dataclass(frozen=True)
class Parts:
    """Images of each split after the cap, and how whole classes or images are split."""

    split: Split
    train: int
    classes: int  # trained
    validation: int
    test: int


def choose(found: Found, encoder: Encoder, measured: Measured, minutes: float | None) -> Chosen:
    """The run for these images and this encoder, within `minutes`; its places are left empty.

    Raises BadInput: fewer than two classes of two images, or too few images to learn and to test.
    """
    said: list[str] = []
    comments: dict[str, str] = {}
    usable = {class_id: keys for class_id, keys in found.classes.items() if len(keys) > 1}
    _expect_enough(found, usable)
    if single := len(found.classes) - len(usable):
        said.append(f"{single:,} classes of one image are left out: nothing to find")
    minutes = minutes or DEFAULT_MINUTES
    budget = PLANNED * 60.0 * minutes - OVERHEAD_SECONDS
    sizes = [measured.second_px, measured.image_size_px] if measured.second_px else []
    cost = sum((each / measured.image_size_px) ** 2 for each in sizes) or 1.0  # of an image's features, in passes
    flip = not measured.transformer
    cap, parts = _capped(usable, measured, budget, cost, 2 if flip else 1)
    said.append(_split_said(parts))
    comments["records.split"] = said[-1]
    if (largest := max(map(len, usable.values()))) > cap:
        why = "as many as the time allows" if cap < _most(usable) else "the most that are taken"
        said.append(f"takes {cap} images of a class, of up to {largest:,}: {why}")
        comments["records.cap_per_class"] = said[-1]
    dim = min(64, measured.width, max(2, int(0.9 * parts.train)))
    if dim < 64:
        least = f"features of {measured.width}" if dim == measured.width else f"{parts.train:,} training images"
        said.append(f"{dim} numbers instead of 64: {least} give no more")
        comments["embedder.embedding_dim"] = said[-1]
    left = budget - _seconds_frozen(parts, measured, cost, 2 if flip else 1)
    tuning, why, advice = _tuning(parts, measured, minutes, left, cost)
    said.append(why)
    comments["train.phases"] = why
    if sizes:
        comments["embedder.sizes_px"] = "features are averaged over both: worth more than any choice of the head"
    by_item = parts.split.by == "item"
    run = Run(
        records=Records(
            sources=found.sources,
            split=parts.split,
            cap_per_class=cap,
            image_size_px=max(384, measured.image_size_px),
            max_reject_share=0.25,
        ),
        encoder=encoder,
        embedder=Embedder(embedding_dim=dim, init="lda", dropout=0.0, sizes_px=[each for each in sizes if each]),
        train=Train(
            loss=Loss(name="arcface", scale=16.0, margin_radians=0.1),
            optimizer=Optimizer(name="adamw", weight_decay=0.0, clip_norm=5.0),
            compile=measured.compiled,
            checkpoint_every_steps=200,
            validate_every_epochs=1000.0,
            phases=[*tuning, _head(parts)],
        ),
        export=Export(flip_average=flip),
        score=Score(
            index=["{run_dir}/records/*-train-*.tfrec" if by_item else "{run_dir}/records/*-test-*.tfrec"],
            queries=["{run_dir}/records/*-test-*.tfrec"] if by_item else [],
            references=["raw_pixels", "raw_features", "pca"],
        ),
    )
    return Chosen(run, said, comments, advice)


def advised(text: str) -> str:
    """`Chosen.advice` of a config that was written with its comments."""
    found = re.search(rf"# {FROZEN}(give --minutes \d+)$", text, re.MULTILINE)
    return f"{found[1]}{TOO}" if found else ""


def training_sample(found: Found, classes: int, images_per_class: int) -> list[tuple[str, str, str]]:
    """(source, key, class) of a few images that will be trained on, never of those that are left to test on."""
    usable = {class_id: keys for class_id, keys in found.classes.items() if len(keys) > 1}
    _expect_enough(found, usable)
    split = _split(usable, _most(usable)).split
    shares = {"train": split.train, "validation": split.validation, "test": split.test}
    of_class: dict[ClassId, str] = {}
    for source in dict.fromkeys(source for source, _ in usable):
        each = split_classes([name for of, name in usable if of == source], shares)
        of_class |= {(source, name): where for name, where in each.items()}
    sample = []
    for class_id, keys in usable.items():
        if split.by == "class" and of_class[class_id] != "train":
            continue
        kept = keys if split.by == "class" else [key for key in keys if split_item(key, shares) == "train"]
        step = max(1, len(kept) // images_per_class)
        sample.append([(class_id[0], key, class_id[1]) for key in kept[::step][:images_per_class]])
    step = max(1, len(sample) // classes)
    return [each for of_one in sample[::step][:classes] for each in of_one]


def _expect_enough(found: Found, usable: dict) -> None:
    if len(found.classes) == 1:
        raise BadInput("expected at least two classes, found one: every neighbour would be right")
    if len(usable) < 2:
        came = f"found {len(found.classes):,} classes with {found.images:,} images"
        raise BadInput(f"expected at least two classes of two images or more, {came}: is a folder a class?")
    if (count := sum(map(len, usable.values()))) < FEWEST_IMAGES:
        raise BadInput(f"expected at least {FEWEST_IMAGES} images in classes of two or more, found {count}")


def _capped(usable: dict, measured: Measured, budget: float, cost: float, flips: int) -> tuple[int, Parts]:
    """The largest cap whose forward passes fit the budget; not below LEAST_CAP."""
    cap = _most(usable)
    while True:
        parts = _split(usable, cap)
        if cap <= LEAST_CAP or _seconds_frozen(parts, measured, cost, flips) <= budget:
            return cap, parts
        cap = max(LEAST_CAP, int(cap * 0.8))


def _most(usable: dict) -> int:
    """Images of a class at most: more of few classes."""
    return CAP if len(usable) >= FEW_CLASSES else min(LARGEST_CAP, CAP * FEW_CLASSES // len(usable))


def _seconds_frozen(parts: Parts, measured: Measured, cost: float, flips: int) -> float:
    """Features of all training and validation images once, and of all scored ones: the embedder's and the raw ones."""
    scored = parts.test + (parts.train if parts.split.by == "item" else 0)
    passes = (parts.train + parts.validation) * cost + parts.train + scored * (flips * cost + 1)
    return FEATURE_COST * passes / measured.images_per_second


def _split(usable: dict, cap: int) -> Parts:
    counts = {class_id: min(len(keys), cap) for class_id, keys in usable.items()}
    classes = len(counts)
    if classes < FEWEST_CLASSES:
        return _split_by_item(usable, counts)
    test = max(TEST_SHARE, FEWEST_TEST_CLASSES / classes)
    validation = VALIDATION_SHARE if classes >= VALIDATED_CLASSES else 0.0
    split = Split(by="class", train=round(1 - test - validation, 7), validation=validation, test=round(test, 7))
    shares = {"train": split.train, "validation": split.validation, "test": split.test}
    images: Counter[str] = Counter()
    trained = 0
    for source in dict.fromkeys(source for source, _ in counts):
        of_class = split_classes([name for of, name in counts if of == source], shares)
        for name, where in of_class.items():
            images[where] += counts[source, name]
            trained += where == "train"
    if trained < 2 or images["test"] < 2:
        return _split_by_item(usable, counts)
    return Parts(split, images["train"], trained, images["validation"], images["test"])


def _split_by_item(usable: dict, counts: dict) -> Parts:
    """Some images of every class are left to test on; a share at which two classes at least have some."""
    for test in (TEST_SHARE, 0.4, 0.5):
        shares = {"train": 1 - test, "validation": 0.0, "test": test}
        where = {class_id: Counter(split_item(key, shares) for key in keys) for class_id, keys in usable.items()}
        both = [each for each in where.values() if each["train"] and each["test"]]
        trained = sum(each["train"] > 0 for each in where.values())
        if len(both) >= 2 and trained >= 2:
            share = sum(counts.values()) / sum(map(len, usable.values()))
            images = sum(where.values(), Counter())
            split = Split(by="item", train=round(1 - test, 7), validation=0.0, test=test)
            return Parts(split, max(2, int(images["train"] * share)), trained, 0, max(1, int(images["test"] * share)))
    raise BadInput(f"{sum(counts.values())} images of {len(counts)} classes are too few to leave some to test on")


def _split_said(parts: Parts) -> str:
    if parts.split.by == "item":
        few = f"fewer than {FEWEST_CLASSES} classes"
        return f"{few}: {parts.split.test:.0%} of the images are left to test on, of classes that are trained on"
    shares = f"{parts.split.test:.0%} of the classes, {parts.test:,} images, are left to test on"
    validates = f", {parts.split.validation:.0%} validate" if parts.validation else ""
    return f"trains {parts.classes:,} classes, {parts.train:,} images; {shares}{validates}"


def _tuning(parts: Parts, measured: Measured, minutes: float, left: float, cost: float) -> tuple[list[Phase], str, str]:
    """The encoder's phase, where it is worth the time that is left; why, or why not; what more time would buy."""
    if measured.transformer:
        return [], "the encoder stays frozen: a transformer's features are tuned at more cost than a CPU has", ""
    if parts.train < FEWEST_TUNED or parts.classes < FEWEST_CLASSES:
        few = f"{parts.train:,} images of {parts.classes:,} classes"
        return [], f"the encoder stays frozen: {few} are too few to tune it", ""
    tuned_px = measured.second_px or measured.image_size_px
    image = STEP_COST * (tuned_px / measured.image_size_px) ** 2 / measured.images_per_second  # seconds
    again = FEATURE_COST * parts.train * cost / measured.images_per_second  # features once more, of the tuned encoder
    epochs = min(EPOCHS, (left - again) / (image * parts.train))
    if epochs < LEAST_EPOCHS:
        lacking = (again + LEAST_EPOCHS * image * parts.train - left) / 60 / PLANNED
        mend = f"give --minutes {math.ceil(minutes + lacking)}"
        return [], f"{FROZEN}{mend}", f"{mend}{TOO}"
    epochs = round(epochs, 1)
    phase = Phase(
        name="encoder",
        trainable="last 60 %",
        loss=Loss(name="cosface", scale=16.0, margin_cosine=0.1),
        image_size_px=tuned_px,
        epochs=epochs,
        batch_size=48,
        learning_rate=1.2e-3,
        encoder_rate_factor=0.1,
        warmup_epochs=round(epochs / 10, 2),
        average_from=0.5,
        keep=Keep(features=1.5),
        sampling=Sampling(domains="sqrt"),
        augment=Augment(flip=True, crop_scale_min=0.5),
    )
    return [phase], f"tunes the encoder's last 60 % for {epochs:g} epochs, then the head", ""


def _head(parts: Parts) -> Phase:
    """Halfway from shrunk discriminants to what ArcFace makes of them, on features computed once."""
    each = 8
    size = min(384, each * max(parts.classes, 2))  # of few classes none stands twice in a batch
    return Phase(
        name="head",
        init="lda",
        trainable="head",
        epochs=8.0,
        batch_size=size,
        learning_rate=3e-3,
        warmup_epochs=2.4,
        centers_rate_factor=10.0,
        average_from=0.5,
        head_interpolation=0.5,
        sampling=Sampling(images_per_class=each, domains="sqrt"),
    )
