"""Kinds of edits of what is trained, exported and scored, and of what came of it."""

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.faults.edits import (
    Kind,
    appends,
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
from tests.faults.world import VIT

PHASE = {"name": "all", "trainable": "all", "epochs": 1, "batch_size": 8}
TWO = {"train.phases": [{"name": "head", "trainable": "head", "epochs": 1, "batch_size": 8}, PHASE]}
ENCODER = {"name": "clip_vit_b_32", "image_size_px": 16, "pooling": "class_token", "architecture": VIT}
ENCODER["weights"] = "file:{world}/tiny.weights.h5"
FLOAT32 = {"encoder": ENCODER, "devices.precision": "float32"}
SHARDS = {"train.records": ["{world}/shards/*-train-*.tfrec"], "train.validation": []}
STARTED = {"train.init_from": "{world}/start.safetensors"}
FOLDERS = {"score.index": ["{world}/scored/index"], "score.queries": ["{world}/scored/queries"]}
FORMATS = {"export.formats": ["saved_model", "onnx"]}
KEPT = ("weights", "losses", "export", "report")  # the seeds' folders stay
INDEXED, QUERY = "scored/index/*/*.jpg", "scored/queries/*/*.jpg"
SAVED = "run/export/saved_model"


def retuned(world, chance) -> None:
    """Another checkpoint of the same architecture in the place of the first."""
    path = world.folder / "start.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata, values = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    grown = {name: each * 2 if each.dtype == np.float32 else each for name, each in values.items()}
    save_file(grown, path, metadata=metadata)


def moved(world, chance) -> None:
    world.run.rename(world.folder / "elsewhere")
    world.set("run_dir", "{world}/elsewhere")


OF_TRAINING = {
    "learning rate": Kind(sets("train.phases.0.learning_rate", 0.01), "weights"),
    "epochs": Kind(sets("train.phases.0.epochs", 2), "weights"),
    "batch size": Kind(sets("train.phases.0.batch_size", 16), "weights"),
    "a phase added": Kind(appends("train.phases", PHASE), "weights"),
    "a phase removed": Kind(lambda world, _: world.values["train"]["phases"].pop(), "weights", TWO),
    "seed": Kind(sets("train.seed", 1), "weights"),
    "seeds": Kind(sets("seeds", [0, 1]), "weights", {"seeds": [0]}),
    "seeds instead of one run": Kind(sets("seeds", [0, 1]), "weights", apart=("weights", "losses")),
    "one run instead of seeds": Kind(sets("seeds", []), "weights", {"seeds": [0, 1]}, apart=KEPT),
    "loss": Kind(sets("train.loss", {"name": "cosface"}), "weights"),
    "optimizer": Kind(sets("train.optimizer", {"name": "sgd"}), "weights"),
    "fold": Kind(sets("train.fold", "domain more"), "weights"),
    "embedding_dim": Kind(sets("embedder.embedding_dim", 6), "weights"),
    "the head's start": Kind(sets("embedder.init", "pca"), "weights"),
    "mean of pixels": Kind(sets("encoder.mean", [0.4, 0.5, 0.6]), "weights"),
    "the encoder's image size": Kind(sets("encoder.image_size_px", 20), "weights"),
    "keras_file: another": Kind(sets("encoder.name", "keras_file:{world}/tinier.keras"), "weights"),
    "keras_file replaced": Kind(copies("tinier.keras", "tiny.keras"), "weights"),
    "keras_file replaced, its time kept": Kind(copies("tinier.keras", "tiny.keras", True), "weights"),
    "encoder.weights replaced": Kind(copies("tinier.weights.h5", "tiny.weights.h5"), "weights", {"encoder": ENCODER}),
    "init_from given": Kind(sets("train.init_from", "{world}/start.safetensors"), "weights"),
    "init_from replaced": Kind(retuned, "weights", STARTED),
    "train.records replaced": Kind(copies("other/shards", "shards"), "weights", SHARDS),
    "train.records replaced, their times kept": Kind(copies("other/shards", "shards", True), "weights", SHARDS),
    "train.records: a shard less": Kind(removes("shards/own-train-01-*.tfrec"), "weights", SHARDS),
    "train.validation: none": Kind(sets("train.validation", []), "losses"),
    "devices.precision": Kind(sets("devices.precision", "mixed_bfloat16"), "weights", FLOAT32),
    "checkpoints deleted": Kind(removes("run/checkpoints")),
    "the newest checkpoint deleted": Kind(removes("run/checkpoints/step-*4.safetensors")),
    "the newest checkpoint cut off": Kind(rewrites("run/checkpoints/step-*4.safetensors", cut)),
    "a bit of the newest checkpoint": Kind(rewrites("run/checkpoints/step-*4.safetensors", flipped)),
    "metrics.jsonl deleted": Kind(removes("run/metrics.jsonl")),
    "features deleted": Kind(removes("run/features"), costs=False),
    "log_every_steps": Kind(sets("train.log_every_steps", 1), "losses", costs=False, apart=("losses", "report")),
    "checkpoint_every_steps": Kind(
        sets("train.checkpoint_every_steps", 3), "losses", costs=False, apart=("losses", "report")
    ),
    "keras_file touched": Kind(touches("tiny.keras"), costs=False),
    "the run folder moved": Kind(moved, costs=False),
}  # fmt: skip

OF_EXPORT = {
    "a format added": Kind(sets("export.formats", ["saved_model", "onnx"]), "export"),
    "a format dropped": Kind(sets("export.formats", ["saved_model"]), "export", FORMATS),
    "a format's file deleted": Kind(removes("run/export/model.onnx"), start=FORMATS),
    "flip_average": Kind(sets("export.flip_average", True), "export"),
    "crops": Kind(sets("export.crops", 2), "export"),
    "a SavedModel's file deleted": Kind(removes(f"{SAVED}/variables/variables.index")),
    "a SavedModel's graph edited": Kind(rewrites(f"{SAVED}/saved_model.pb", cut)),
    "a SavedModel's weights edited": Kind(rewrites(f"{SAVED}/variables/variables.data*", flipped, keeps_time=True)),
    "export deleted": Kind(removes("run/export")),
    "fingerprint.json deleted": Kind(removes("run/export/fingerprint.json")),
    "submission.zip deleted": Kind(removes("run/submission.zip")),
    "submission.zip cut off": Kind(rewrites("run/submission.zip", cut)),
    "model_card.md edited": Kind(rewrites("run/export/model_card.md", lambda text: text + b"more")),
}  # fmt: skip

OF_SCORE = {
    "references": Kind(sets("score.references", ["raw_pixels", "raw_features"]), "score"),
    "score.index: another": Kind(sets("score.index", ["{world}/scored/index"]), "score"),
    "score.index: an image added": Kind(draws("scored/index/c0/9.jpg"), "score", FOLDERS),
    "score.index: an image removed": Kind(removes(INDEXED), "score", FOLDERS),
    "score.index: an image overwritten, its time kept": Kind(redraws(INDEXED, keeps_time=True), "score", FOLDERS),
    "score.index: an image in another class": Kind(
        moves(INDEXED, lambda path: path.parents[1] / "c9" / path.name), "score", FOLDERS
    ),
    "score.index: another tree": Kind(sets("score.index", ["{world}/other/images/own"]), "score"),
    "score.queries given": Kind(sets("score.queries", ["{world}/scored/queries"]), "score", {
        "score.index": ["{world}/scored/index"]
    }),
    "score.queries: an image overwritten": Kind(redraws(QUERY), "score", FOLDERS),
    "metrics.json deleted": Kind(removes("run/metrics.json")),
    "metrics.json edited": Kind(rewrites("run/metrics.json", reworded("mP@5", 0.99))),
    "metrics.json cut off": Kind(rewrites("run/metrics.json", cut)),
    "precisions.npz deleted": Kind(removes("run/precisions.npz")),
    "scored vectors cut off": Kind(rewrites("run/scored/embeddings.npy", cut)),
    "scored table deleted": Kind(removes("run/scored/items.csv")),
    "report.html deleted": Kind(removes("run/report.html")),
    "report.html edited": Kind(rewrites("run/report.html", cut)),
    "contact_sheet.jpg deleted": Kind(removes("run/contact_sheet.jpg")),
    "contact_sheet.jpg replaced": Kind(copies("images/own/c0/0.jpg", "run/contact_sheet.jpg")),
    "config.yaml deleted": Kind(removes("run/config.yaml")),
}  # fmt: skip

KINDS = {**OF_TRAINING, **OF_EXPORT, **OF_SCORE}
