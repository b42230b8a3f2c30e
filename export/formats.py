"""The same embedder in other formats: ONNX, LiteRT and TorchScript.

<run_dir>/export/model.onnx               uint8 [B, H, W, 3], any H and W → embedding_norm
<run_dir>/export/model.tflite             uint8 [1, S, S, 3], S the encoder's image size: the app resizes
<run_dir>/export/submission_torch.zip     saved_model.pt: uint8 [1, 3, H, W], the competition's contract for PyTorch
"""

import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from export import torchscript
from export.contract_probe import KEY, blocks
from pipeline.config import Run, to_yaml
from pipeline.data.preprocessing import Preprocess, normalize
from pipeline.errors import BadInput, missing, reason
from pipeline.evaluation.submission_zip import ZIP_DATE
from pipeline.files import atomic_path
from pipeline.planning.config_checks import LARGEST_BYTES

ONNX_OPSET = 18  # the first whose Resize has antialias
SIZES = ((31, 57), (240, 180), (480, 640))  # height, width of the images on which formats are compared
FILES = {"onnx": "model.onnx", "litert": "model.tflite", "torchscript": "submission_torch.zip"}
# Largest difference of any number from the SavedModel's: libraries round differently when they resize.
TOLERANCES = {"onnx": 1e-4, "litert": 1e-4, "torchscript": torchscript.TOLERANCE}
Embed = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] → float32 [B, D]


def unit_embeddings(model: keras.Model, pixels: tf.Tensor) -> tf.Tensor:
    """float32 [B, S, S, 3], normalised → float32 [B, D], unit length."""
    return unit_length(model(pixels, training=False))


def unit_length(embeddings: tf.Tensor) -> tf.Tensor:
    """[B, D] → float32 [B, D], unit length."""
    return tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=-1, epsilon=1e-12)


def write(
    name: str, config: Run, model: keras.Model, preprocess: Preprocess, folder: Path
) -> tuple[Path, Embed, tuple[tuple[int, int], ...]]:
    """Writes one format into `folder`; returns its file, a function that embeds with it, the sizes that it takes."""
    path = folder / FILES[name]
    if name == "onnx":
        return path, write_onnx(model, preprocess, path), SIZES
    if name == "litert":
        side = (preprocess.image_size_px, preprocess.image_size_px)
        return path, write_litert(model, preprocess, path), (side,)
    with tempfile.TemporaryDirectory() as temporary:
        config_yaml = Path(temporary) / "config.yaml"
        config_yaml.write_text(to_yaml(config), encoding="utf-8")
        return path, write_torchscript(config_yaml, path), SIZES


def write_onnx(model: keras.Model, preprocess: Preprocess, path: Path) -> Embed:
    """Writes ONNX; returns uint8 [B, H, W, 3] → [B, D] by ONNX Runtime.

    `model`: float32 [B, S, S, 3], normalised → [B, D]. Raises BadInput: a package is missing, the model is too large
    for a protobuf, or ONNX lacks an operation.
    """
    try:
        import onnx
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise missing("export.formats: onnx needs", f"{error.name}", "onnx") from None
    _check_size(model, "onnx")
    side = preprocess.image_size_px

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.float32, name="pixels")])
    def encode(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {KEY: unit_embeddings(model, pixels)}

    encoder, _ = tf2onnx.convert.from_function(
        encode, input_signature=encode.input_signature, opset=ONNX_OPSET, custom_op_handlers={"Erfc": (_erfc, [])}
    )
    unknown = sorted({n.op_type for n in encoder.graph.node if not onnx.defs.has(n.op_type, n.domain)})
    if unknown:
        raise BadInput(f"export.formats: onnx has no {', '.join(unknown)}, which this encoder needs")
    preparation = _onnx_preprocessing(preprocess, encoder.ir_version)
    whole = onnx.compose.merge_models(preparation, encoder, io_map=[("prepared", "pixels")])
    with atomic_path(path) as temporary:
        onnx.save(whole, temporary)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run([KEY], {"images": images})[0]


def _onnx_preprocessing(preprocess: Preprocess, ir_version: int) -> Any:
    """uint8 `images` [B, H, W, 3] → float32 `prepared` [B, S, S, 3], as `pipeline.data.preprocessing.prepare`."""
    from onnx import TensorProto, helper

    # As TensorFlow: Keys' kernel with a = -0.5, and no weight for pixels beyond the border (exclude_outside).
    mode = {"bicubic": "cubic", "bilinear": "linear"}.get(preprocess.resize)
    if mode is None:
        raise BadInput(f"export.formats: onnx cannot resize by {preprocess.resize}")
    side = preprocess.image_size_px
    constants: dict[str, np.ndarray] = {
        "size": np.array([side, side], np.int64),
        "low": np.array(0.0, np.float32),
        "high": np.array(255.0, np.float32),
        "shift": np.array(preprocess.mean, np.float32) * 255.0,
        "scale": np.array(preprocess.std, np.float32) * 255.0,
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize",
            ["planes", "", "", "size"],
            ["resized"],
            axes=[2, 3],
            mode=mode,
            antialias=int(preprocess.antialias),
            coordinate_transformation_mode="half_pixel",
            exclude_outside=1,
            cubic_coeff_a=-0.5,
        ),
        helper.make_node("Clip", ["resized", "low", "high"], ["clipped"]),
        helper.make_node("Transpose", ["clipped"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Sub", ["last", "shift"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["prepared"]),
    ]
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("prepared", TensorProto.FLOAT, ["batch", side, side, 3])],
        initializer=[
            helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape, value.ravel().tolist())
            for name, value in constants.items()
        ],
    )
    opset = helper.make_opsetid("", ONNX_OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=ir_version)


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Writes Erfc, which TensorFlow's GELU uses, as 1 - Erf: a handler for tf2onnx."""
    node.type = "Erf"
    consumers = graph.find_output_consumers(node.output[0])
    one = graph.make_const(f"{name}_one", np.array(1.0, np.float32))
    complement = graph.make_node("Sub", [one.output[0], node.output[0]])
    graph.replace_all_inputs(node.output[0], complement.output[0], ops=consumers)


def write_litert(model: keras.Model, preprocess: Preprocess, path: Path) -> Embed:
    """Writes LiteRT; returns uint8 [1, S, S, 3] → [1, D] by its interpreter. The app resizes its images.

    Raises BadInput: the model is too large for a flatbuffer, or LiteRT lacks an operation.
    """
    _check_size(model, "litert")
    side = preprocess.image_size_px

    class Phone(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [weight.value for weight in model.weights]

        @tf.function(input_signature=[tf.TensorSpec([1, side, side, 3], tf.uint8, name="images")])
        def serve(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            return {KEY: unit_embeddings(model, normalize(images, preprocess))}

    phone = Phone()
    # Through a SavedModel: from the function alone the converter loses Keras 3's weights.
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        tf.saved_model.save(phone, folder, signatures=phone.serve)
        try:
            content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as error:  # ConverterError is private
            raise BadInput(f"export.formats: litert cannot express this encoder: {reason(error)}") from None
        temporary.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "use ai_edge_litert": the same interpreter in another package
        interpreter = tf.lite.Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def embed(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"]).copy()

    return embed


def write_torchscript(config_yaml: Path, path: Path) -> Embed:
    """Writes TorchScript; returns uint8 [B, H, W, 3] → [B, D] by torch. The file itself takes [B, 3, H, W].

    Raises BadInput as `torchscript.convert`.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "saved_model.pt"
        torchscript.convert(config_yaml, model)
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            entry = zipfile.ZipInfo("saved_model.pt", ZIP_DATE)
            with archive.open(entry, "w", force_zip64=True) as target, model.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        import torch

        module = torch.jit.load(str(model))

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()

    return embed


def largest_difference(here: Embed, there: Embed, sizes: tuple[tuple[int, int], ...] = SIZES) -> float:
    """The largest difference between two embedders: of any number, over images of these sizes (height, width)."""
    images = [blocks(height, width, number)[None] for number, (height, width) in enumerate(sizes)]
    return max(float(np.abs(here(image) - there(image)).max()) for image in images)


def _check_size(model: keras.Model, name: str) -> None:
    if (size := 4 * model.count_params()) > LARGEST_BYTES:
        raise BadInput(
            f"export.formats: {name} holds at most {LARGEST_BYTES / 1e9:.1f} GB of weights, this encoder has "
            f"{size / 1e9:.1f}; saved_model and torchscript have no limit"
        )
