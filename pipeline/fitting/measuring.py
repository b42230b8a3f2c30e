"""What the encoder at hand is, and how fast it is here; how a Keras file wants its pixels, where nothing says it."""

import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.config import Encoder
from pipeline.data import host_resize, preprocessing
from pipeline.data.sources import read_decoded
from pipeline.errors import BadInput
from pipeline.fitting.apart import Answer, Task
from pipeline.fitting.choosing import SECOND_SIZE, SMALLEST_SECOND_PX, Measured
from pipeline.models import catalogue, encoders, sizes
from pipeline.models.catalogue import KERAS_FILE
from pipeline.models.encoders import ImageEncoder
from pipeline.models.known.entries import HALF, IMAGENET_MEAN, IMAGENET_STD
from pipeline.retrieval.precisions import precisions
from pipeline.retrieval.vectors import unit_length
from tfrecords.sources import list_configured

BATCH = 32
USUAL_PX = 224
LEAST_SECONDS = 2.0  # that are timed, after the first batch, which compiles
SECONDS_A_SCALING = 6.0
LEVELS = (1 / 255,) * 3
SCALINGS = {  # said → (mean, std) of RGB in [0, 1]
    "pixels in -1 … 1": (HALF, HALF),
    "pixels in 0 … 1": ((0.0,) * 3, (1.0,) * 3),
    "ImageNet's mean and std": (IMAGENET_MEAN, IMAGENET_STD),
    "pixels in 0 … 255": ((0.0,) * 3, LEVELS),
}
# How the models of keras.applications take RGB, by how their names begin, the longer before the shorter. Those that
# want BGR (ResNet v1, VGG) cannot be given it: what suits them best is measured.
NAMED = {
    "mobilenetv3": "pixels in 0 … 255",
    "mobilenet": "pixels in -1 … 1",
    "efficientnet": "pixels in 0 … 255",
    "convnext": "pixels in 0 … 255",
    "regnet": "pixels in 0 … 255",
    "densenet": "ImageNet's mean and std",
    "inception": "pixels in -1 … 1",
    "xception": "pixels in -1 … 1",
    "nasnet": "pixels in -1 … 1",
    "resnet50v2": "pixels in -1 … 1",
    "resnet101v2": "pixels in -1 … 1",
    "resnet152v2": "pixels in -1 … 1",
}


def measure(task: Task) -> Answer:
    """Raises BadInput: weights that cannot be had, a file that is no encoder."""
    encoder, said = task.encoder, []
    unknown = encoder.name.startswith(KERAS_FILE) and (encoder.mean is None or encoder.std is None)
    if unknown and (named := _by_name(Path(encoder.name.removeprefix(KERAS_FILE)))):
        kind, scaling = named
        encoder, unknown = _scaled(encoder, scaling), False
        said.append(f"takes {scaling}, as {kind} of keras.applications does")
    try:
        built = _built(encoder, unknown)
    except BadInput:
        if encoder.image_size_px or not encoder.name.startswith(KERAS_FILE):
            raise
        encoder = replace(encoder, image_size_px=USUAL_PX)  # a file that takes any size
        built = _built(encoder, unknown)
        said.append(f"sees {USUAL_PX} px, for the file takes any size")
    transformer = _is_transformer(encoder, built)
    try:
        rate, compiled = _rate(_forward(built, jit_compile=transformer), built), transformer
    except (tf.errors.OpError, ValueError, TypeError):  # a layer that XLA has no code for
        rate, compiled = _rate(_forward(built, jit_compile=False), built), False
    if unknown:
        scaling, scores = _best_scaling(built, task, rate)
        encoder = _scaled(encoder, scaling)
        best = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        said.append(f"takes {scaling}: the raw features' mP@5 on training images is {best}")
    size = built.preprocess.image_size_px
    second = None if transformer else _second_size(built)
    return Answer(encoder, Measured(built.width, size, rate, transformer, compiled, second), said)


def _built(encoder: Encoder, unknown: bool) -> ImageEncoder:
    return encoders.build(_scaled(encoder, "pixels in -1 … 1") if unknown else encoder)


def _scaled(encoder: Encoder, scaling: str) -> Encoder:
    mean, std = SCALINGS[scaling]
    return replace(encoder, mean=list(mean), std=list(std))


def _by_name(path: Path) -> tuple[str, str] | None:
    """(name, scaling) of a known model of keras.applications in a .keras file; None where no name tells."""
    if not zipfile.is_zipfile(path):  # HDF5
        return None
    try:
        with zipfile.ZipFile(path) as file:
            held = json.loads(file.read("config.json"))
    except (OSError, KeyError, ValueError):
        return None
    for name in _model_names(held):
        flat = name.lower().replace("_", "").replace("-", "")
        for begins, scaling in NAMED.items():
            if flat.startswith(begins):
                return name, scaling
    return None


def _model_names(held: Any) -> list[str]:
    """Names of the model and of models in it, the outer ones first."""
    if not isinstance(held, dict) or held.get("class_name") not in ("Functional", "Sequential", "Model"):
        return []
    inside = held.get("config", {})
    layers = [name for layer in inside.get("layers", []) for name in _model_names(layer)]
    return [str(inside.get("name", "")), *layers]


def _is_transformer(encoder: Encoder, built: ImageEncoder) -> bool:
    if encoder.name.startswith(KERAS_FILE):
        return any("attention" in type(layer).__name__.lower() for layer in built.model._flatten_layers())
    entry = catalogue.expect(encoder)
    return entry is not None and entry.facts.transformer


def _forward(built: ImageEncoder, jit_compile: bool) -> Callable[[Any], Any]:
    return tf.function(
        lambda images: tf.cast(built.model(images, training=False), tf.float32),
        jit_compile=jit_compile, reduce_retracing=True,
    )  # fmt: skip


def _rate(forward: Callable[[Any], Any], built: ImageEncoder) -> float:
    """Images a second, forward."""
    side = built.preprocess.image_size_px
    images = tf.zeros([BATCH, side, side, 3])
    forward(images).numpy()
    began, batches = time.monotonic(), 0
    while batches < 2 or time.monotonic() - began < LEAST_SECONDS:
        forward(images).numpy()
        batches += 1
    return batches * BATCH / (time.monotonic() - began)


def _second_size(built: ImageEncoder) -> int | None:
    """A smaller size that the encoder runs at, too, a multiple of 32 px; None where it does not."""
    size = built.preprocess.image_size_px
    second = round(size * SECOND_SIZE / 32) * 32
    if not SMALLEST_SECOND_PX <= second < size:
        return None
    try:
        smaller = sizes.at_size(built, second)
        found = smaller.model(np.zeros([1, second, second, 3], np.float32), training=False)
    except (BadInput, ValueError, TypeError, tf.errors.OpError):
        return None
    return second if tuple(found.shape) == (1, built.width) else None


def _best_scaling(built: ImageEncoder, task: Task, rate: float) -> tuple[str, dict[str, float]]:
    """The scaling whose raw features find most neighbours of their class; the score of each."""
    most = max(2 * BATCH, int(rate * SECONDS_A_SCALING))
    pixels, labels = _sampled(task, most, built.preprocess)
    forward = _forward(built, jit_compile=False)
    scores = {}
    for name, (mean, std) in SCALINGS.items():
        scaled = replace(built.preprocess, mean=mean, std=std)
        parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
        features = np.concatenate([forward(preprocessing.normalize(tf.constant(each), scaled)) for each in parts])
        usable = np.isfinite(features).all()
        scores[name] = float(precisions((unit_length(features), labels)).mean()) if usable else 0.0
    return max(scores, key=lambda name: scores[name]), scores


def _sampled(task: Task, most: int, preprocess: preprocessing.Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N, S, S, 3] in 0…255, int [N]) of at most so many of the sample's images; whole classes."""
    wanted = {(source, key): class_name for source, key, class_name in task.sample[:most]}
    items, names = [], []
    for source in task.sources:
        for item in list_configured(source, "").items:
            if class_name := wanted.get((source.name, item.key)):
                items.append(item)
                names.append(class_name)
    pixels, kept = [], []
    for row, image, _ in read_decoded(items):
        if image is not None:
            pixels.append(host_resize.resize(image, preprocess))
            kept.append(names[row])
    if not pixels:
        raise BadInput("no image of the sample could be read, to find out how the Keras file wants its pixels")
    return np.stack(pixels), np.unique(kept, return_inverse=True)[1]
