"""What `guie fit` chooses for so many classes, images, minutes, and for the encoder at hand."""

import dataclasses

import pytest

from pipeline.config import Encoder, Run, Source, load
from pipeline.errors import BadInput
from pipeline.fitting import choosing, writing
from pipeline.fitting.choosing import Measured
from pipeline.fitting.looking import Found
from pipeline.planning import config_checks
from tfrecords import splits

CONV = Measured(width=1024, image_size_px=224, images_per_second=150.0, transformer=False, second_px=160)
VIT = Measured(width=768, image_size_px=256, images_per_second=20.0, transformer=True)
ENCODER = Encoder(name="mobilenet_v3_small_100_imagenet", weights="preset")


def found(classes: int, images: int, **more: int) -> Found:
    """`more`: class → images."""
    sizes = {f"c{number}": images for number in range(classes)} | more
    keys = {("own", name): [f"{name}/{number}.jpg" for number in range(size)] for name, size in sizes.items()}
    return Found([Source(layout="folder", name="own", root="/own")], keys, [])


def choose(given: Found, measured: Measured = CONV, minutes: float | None = None):
    chosen = choosing.choose(given, ENCODER, measured, minutes)
    return chosen.run, " | ".join(chosen.said)


def names(run: Run) -> list[str]:
    return [phase.name for phase in run.train.phases]


@pytest.mark.parametrize(
    ("classes", "shares"),
    [(10, (0.5, 0, 0.5)), (12, (0.5833333, 0, 0.4166667)), (30, (0.7, 0, 0.3)), (300, (0.6, 0.1, 0.3))],
)
def test_whole_classes_are_left_out_five_of_them_at_least(classes, shares):
    run, said = choose(found(classes, 20))
    split = run.records.split
    assert (split.by, split.train, split.validation, split.test) == ("class", *shares)
    assert "are left to test on" in said and split.test * classes >= 4.99


def test_few_classes_are_split_by_image_and_it_says_that_they_are_seen():
    run, said = choose(found(4, 30))
    assert run.records.split.by == "item" and "of classes that are trained on" in said
    assert run.score.queries == ["{run_dir}/records/*-test-*.tfrec"] and "train" in run.score.index[0]


def test_time_decides_whether_the_encoder_is_tuned_and_for_how_long():
    given = found(40, 60)
    full, short, none = (choose(given, minutes=minutes) for minutes in (30, 3.5, 2.5))
    assert names(full[0]) == names(short[0]) == ["encoder", "head"] and full[0].train.phases[0].epochs == 4
    assert 1 <= short[0].train.phases[0].epochs < 4
    assert names(none[0]) == ["head"] and "to tune it give --minutes 4" in none[1]


def test_a_class_has_fewer_images_where_the_time_allows_no_more_and_more_of_few_classes():
    run, said = choose(found(400, 100), VIT, minutes=10)
    assert 4 <= run.records.cap_per_class < 50 and "as many as the time allows" in said
    assert choose(found(10, 500), minutes=60)[0].records.cap_per_class == 200


def test_a_transformer_stays_frozen_at_its_own_size():
    run, said = choose(found(40, 40), VIT, minutes=600)
    assert names(run) == ["head"] and run.embedder.sizes_px == [] and "frozen" in said
    assert not run.export.flip_average


def test_few_images_stay_frozen_and_give_fewer_numbers():
    run, said = choose(found(3, 6))
    assert names(run) == ["head"] and 2 <= run.embedder.embedding_dim < 18 and "instead of 64" in said


def test_classes_of_one_image_are_left_out():
    _, said = choose(found(12, 9, lone=1, other=1))
    assert "2 classes of one image are left out" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (found(1, 90), "found one"),
        (found(0, 0, a=1, b=1, c=9), "two classes of two images"),
        (found(2, 3), "at least 8 images"),
    ],
)
def test_too_little_is_refused(given, said):
    with pytest.raises(BadInput, match=said):
        choose(given)


@pytest.mark.parametrize("count", [4, 12, 300])
def test_scalings_are_tried_on_training_images_alone(count):
    given = found(count, 12)
    split = choose(given)[0].records.split
    shares = {"train": split.train, "validation": split.validation, "test": split.test}
    sample = choosing.training_sample(given, 8, 5)
    of_class = splits.split_classes([name for _, name in given.classes], shares)
    where = {splits.split_item(key, shares) if split.by == "item" else of_class[name] for _, key, name in sample}
    assert where == {"train"} and 2 <= len({name for *_, name in sample}) <= 8 and len(sample) <= 40


@pytest.mark.parametrize(("given", "minutes"), [(found(4, 30), None), (found(300, 40), None), (found(60, 40), 2.5)])
def test_the_config_that_is_written_reads_as_it_was_chosen(tmp_path, given, minutes):
    chosen = choosing.choose(given, ENCODER, CONV, minutes)
    assert bool(chosen.advice) == bool(minutes)
    run = dataclasses.replace(chosen.run, name="own", run_dir=str(tmp_path / "run"))
    (path := tmp_path / "fit.yaml").write_text(writing.written(run, chosen.comments))
    assert choosing.advised(path.read_text()) == chosen.advice  # which a rerun says again
    assert load(Run, path) == dataclasses.replace(run, data_root=load(Run, path).data_root)
    assert max(map(len, path.read_text().splitlines())) < 200 and path.read_text().count("# ") >= 3
    config_checks.expect_encoder(run)
    config_checks.expect_training(run)
    config_checks.expect_own_shards(run)
