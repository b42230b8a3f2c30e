"""COMMAND  newest checkpoint → SavedModel, submission.zip and the other formats.

guie export CONFIG [KEY=VALUE …]
<run_dir>/checkpoints/ → <run_dir>/export/saved_model/, <run_dir>/submission.zip, <run_dir>/export/model_card.md,
<run_dir>/export/fingerprint.json

The served graph takes uint8 [B, H, W, 3] of any H and W and returns {"embedding_norm": float32 [B, D]}, unit length.
It scales, resizes and normalises the images itself. TensorFlow 2.6.4, the competition's version, loads it.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export import card, formats
from export.contract_probe import KEY
from pipeline.config import Run
from pipeline.data.preprocessing import Preprocess, normalize, resize
from pipeline.evaluation import halves
from pipeline.evaluation.submission_zip import zip_submission
from pipeline.files import atomic_path, file_sha256, write_json
from pipeline.guards import stage_log
from pipeline.guards.locks import one_at_a_time
from pipeline.models.embedder import Embedder, average_features
from pipeline.models.weights.variables import weights_digest
from pipeline.planning.config_checks import formats_beside
from pipeline.stages import depends
from pipeline.training import checkpoints

AtSizes = Sequence[tuple[keras.Model, Preprocess]]
CROP_SHARE = 0.875  # side of a crop as a share of the image's
# (top, left) of each further view, as shares of the margin that a crop leaves: the centre, the corners.
CROPS = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
# An op that a newer TensorFlow writes into the function that saves variables; 2.6.4 lacks it.
UNKNOWN_TO_SCORER = "DisableCopyOnRead"


def resized_views(images: tf.Tensor, preprocess: Preprocess, crops: int) -> tf.Tensor:
    """uint8 [B, H, W, 3] → float32 [B, V, S, S, 3] in 0…255: the whole image, its centre, its corners.

    Of `fit: aspect` it is the whole image alone, [B, 1, h, w, 3].
    """
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    crop_height = tf.maximum(tf.cast(CROP_SHARE * tf.cast(height, tf.float32), tf.int32), 1)
    crop_width = tf.maximum(tf.cast(CROP_SHARE * tf.cast(width, tf.float32), tf.int32), 1)
    resized = [resize(images, preprocess)]
    for top_share, left_share in CROPS[: crops - 1]:
        top = tf.cast(top_share * tf.cast(height - crop_height, tf.float32), tf.int32)
        left = tf.cast(left_share * tf.cast(width - crop_width, tf.float32), tf.int32)
        resized.append(resize(images[:, top : top + crop_height, left : left + crop_width, :], preprocess))
    return tf.ensure_shape(tf.stack(resized, axis=1), shape_of(preprocess, crops))


def shape_of(preprocess: Preprocess, crops: int) -> list[int | None]:
    """[B, V, S, S, 3], what is not known None."""
    side = None if preprocess.fit == "aspect" else preprocess.image_size_px
    return [None, crops, side, side, 3]


def view_by_view(pixels: tf.Tensor, preprocess: Preprocess, flip_average: bool) -> tf.Tensor:
    """float32 [B, V, S, S, 3] in 0…255 → [V * B, S, S, 3], normalised; flips: then all of these mirrored."""
    side = preprocess.image_size_px
    size = tf.shape(pixels)[2:4] if preprocess.fit == "aspect" else [side, side]
    by_view = tf.reshape(tf.transpose(pixels, [1, 0, 2, 3, 4]), [-1, size[0], size[1], 3])
    by_view = normalize(by_view, preprocess)
    return tf.concat([by_view, tf.reverse(by_view, axis=[2])], axis=0) if flip_average else by_view


class Served(tf.Module):
    """The object that is saved: the weights and two signatures, without Keras.

    `serve` resizes and embeds. `embed_resized` is its second half, for callers that resize by themselves: images of
    many sizes then share a batch. `resizing` tells them how, see `pipeline.evaluation.halves`.
    """

    def __init__(self, at_sizes: AtSizes, head: keras.Model | None, flip_average: bool, crops: int):
        super().__init__(name="embedder")
        models, count = [model for model, _ in at_sizes], crops * (2 if flip_average else 1)
        weights = [weight for model in [*models, *([head] if head else [])] for weight in model.weights]
        self.weights = list({id(weight): weight.value for weight in weights}.values())  # sizes share them
        description = halves.described([preprocess for _, preprocess in at_sizes], CROPS[: crops - 1], CROP_SHARE)

        @tf.function(
            input_signature=[
                tf.TensorSpec(shape_of(each, crops), tf.float32, name=f"pixels_{each.image_size_px}")
                for _, each in at_sizes
            ]
        )
        def embed_resized(*pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            found = []
            for (model, preprocess), of_size in zip(at_sizes, pixels, strict=True):
                found.append(model(view_by_view(of_size, preprocess, flip_average), training=False))  # [V * B, width]
            embeddings = average_features(found)
            if head is not None:
                embeddings = head(embeddings, training=False)
            embeddings = formats.unit_length(embeddings)  # [V * B, D]
            if count > 1:
                by_view = tf.reshape(embeddings, [count, -1, embeddings.shape[-1]])
                embeddings = formats.unit_length(tf.reduce_mean(by_view, axis=0))
            return {KEY: embeddings}

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
        def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return embed_resized(*(resized_views(images, preprocess, crops) for _, preprocess in at_sizes))

        self.serve, self.embed_resized = serve, embed_resized
        self.resizing = tf.function(lambda: tf.constant(description), input_signature=[])


def save(
    at_sizes: AtSizes,
    out_dir: Path,
    head: keras.Model | None = None,
    flip_average: bool = False,
    crops: int = 1,
    io_device: str | None = None,
) -> None:
    """Writes a SavedModel that TensorFlow 2.6.4 and newer load. The folder appears whole or not at all.

    Args:
        at_sizes: a model of each image size, float32 [B, S, S, 3], normalised → [B, width], and from uint8 pixels to
            its input; of several the directions are averaged. Of any dtype policy, served in float32.
        head: [B, width] → [B, D]; None: the models give the embeddings.
        out_dir: replaced if it exists.
        flip_average: average the embeddings of each view and its mirror image.
        crops: number of views of an image, 1 … 6: the whole, the centre, the corners; averages their embeddings.
        io_device: "/job:localhost" on a remote TPU, whose hosts cannot write to this machine's disk.
    """
    models = [*(model for model, _ in at_sizes), *([head] if head else [])]
    with in_float32(models), atomic_path(out_dir) as temporary:
        served = Served(at_sizes, head, flip_average, crops)
        options = tf.saved_model.SaveOptions(experimental_io_device=io_device)
        with quiet():
            signatures = {"serving_default": served.serve, halves.SIGNATURE: served.embed_resized}
            tf.saved_model.save(served, str(temporary), signatures=signatures, options=options)
        make_loadable_by_scorer(temporary)
        if not any((temporary / "assets").iterdir()):
            (temporary / "assets").rmdir()  # no part of the contract


def save_embedder(config: Run, embedder: Embedder, out_dir: Path) -> None:
    """`save` of an embedder with the config's sizes and views."""
    at_sizes = [(encoder.model, encoder.preprocess) for encoder in embedder.at_sizes()]
    io_device = "/job:localhost" if config.devices.tpu else None
    save(at_sizes, out_dir, embedder.head, config.export.flip_average, config.export.crops, io_device)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences TensorFlow's "Assets written to", which names the temporary folder."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def in_float32(models: Sequence[keras.Model]) -> Iterator[None]:
    """Lets every layer compute in float32 while the block runs: TensorFlow 2.6.4 has few bfloat16 kernels."""
    layers = list({id(layer): layer for model in models for layer in model._flatten_layers()}.values())
    policies = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            if layer.compute_dtype != "float32":
                layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            if layer.dtype_policy != policy:
                layer.dtype_policy = policy


def make_loadable_by_scorer(saved_model_dir: Path) -> int:
    """Removes the DisableCopyOnRead nodes from saved_model.pb; returns how many there were.

    They are control inputs of the function that saves the variables, so no number changes. The file
    `fingerprint.pb` is removed too: it is a hash of the unchanged graph.
    """
    path = saved_model_dir / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    removed = 0
    for meta_graph in saved_model.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            gone = {node.name for node in function.node_def if node.op == UNKNOWN_TO_SCORER}
            if not gone:
                continue
            removed += len(gone)
            kept = [node for node in function.node_def if node.name not in gone]
            for node in kept:
                inputs = [name for name in node.input if name.lstrip("^").split(":")[0] not in gone]
                if len(inputs) != len(node.input):
                    del node.input[:]
                    node.input.extend(inputs)
            del function.node_def[:]
            function.node_def.extend(kept)
            outputs = [key for key, name in function.control_ret.items() if name in gone]
            for key in outputs:
                del function.control_ret[key]
            controls = [key for key in function.signature.control_output if key not in outputs]
            del function.signature.control_output[:]
            function.signature.control_output.extend(controls)
        known = [op for op in meta_graph.meta_info_def.stripped_op_list.op if op.name != UNKNOWN_TO_SCORER]
        del meta_graph.meta_info_def.stripped_op_list.op[:]
        meta_graph.meta_info_def.stripped_op_list.op.extend(known)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
    (saved_model_dir / "fingerprint.pb").unlink(missing_ok=True)
    return removed


def write_formats(
    config: Run, model: keras.Model, preprocess: Preprocess, folder: Path
) -> dict[str, dict[str, float | str]]:
    """Writes the formats beside the SavedModel in `folder` and compares each with it.

    Returns format → its file, largest difference and tolerance. Raises BadInput: the encoder cannot be written in a
    format. Raises RuntimeError: a format differs from the SavedModel by more than its tolerance.
    """
    wanted = formats_beside(config)
    if not wanted:
        return {}
    served = tf.saved_model.load(str(folder))
    report: dict[str, dict[str, float | str]] = {}
    for name in wanted:
        path, embed, sizes = formats.write(name, config, model, preprocess, folder.parent)
        difference = formats.largest_difference(
            lambda images: served.signatures["serving_default"](images=tf.constant(images))[KEY].numpy(), embed, sizes
        )
        tolerance = formats.TOLERANCES[name]
        if not difference <= tolerance:
            raise RuntimeError(f"{path} differs from the SavedModel by {difference:.1e}, more than {tolerance:g}")
        report[name] = {"file": path.name, "largest_difference": difference, "tolerance": tolerance}
        print(f"export: {path}, differs from the SavedModel by at most {difference:.1e}", flush=True)
    return report


@one_at_a_time
def main(config: Run) -> None:
    run_dir = Path(config.run_dir)
    folder, submission = run_dir / "export" / "saved_model", run_dir / "submission.zip"
    facts_path = run_dir / "export" / "fingerprint.json"
    print(f"export: reads {run_dir / 'checkpoints'}, writes {run_dir / 'export'} and {submission}")
    stage = depends.export(config)
    if stage.is_done():
        card.write(config)
        print(f"export: {submission} is of the newest checkpoint already, nothing to do")
        return

    beside = formats_beside(config)  # before anything is written
    makes = ["export/saved_model", "submission.zip", "export/fingerprint.json"]
    mark = stage.begin([*makes, *(f"export/{formats.FILES[name]}" for name in beside)])
    with stage_log.logged(run_dir, "export"):
        keras.config.set_dtype_policy("float32")  # a training in this process may have left bfloat16
        embedder = checkpoints.load_trained(config)
        save_embedder(config, embedder, folder)
        zip_submission(folder, submission)
        written = write_formats(config, embedder.model, embedder.preprocess, folder)
        dim = int(embedder.model.output_shape[-1])
        facts = {
            "weights_sha256": weights_digest(embedder.model.weights),
            "submission_sha256": file_sha256(submission),
            "embedding_dim": dim,
            "parameters": int(embedder.model.count_params()),
            "formats": written,
            "preprocess": dataclasses.asdict(embedder.preprocess),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        }
        write_json(facts_path, facts)
        card.write(config)
    stage.finish(mark)
    print(f"export: {submission}, {os.path.getsize(submission) / 1e6:,.1f} MB, {KEY} of {dim} numbers")
