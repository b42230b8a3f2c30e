"""Submissions for test_check.py, each of which breaks the contract in one way; written with TensorFlow alone."""

import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")


def features(images: tf.Tensor, dim: int = 64) -> tf.Tensor:
    """uint8 [B, H, W, 3] → float32 [B, dim]: 8 × 8 pixels, folded into `dim` numbers by fixed cosines."""
    pixels = tf.image.resize(tf.cast(images, tf.float32), (8, 8))  # [B, 8, 8, 3]
    flat = tf.reshape(pixels, [-1, 192]) / 255.0 + 0.1
    mix = tf.cos(tf.reshape(tf.range(192 * dim, dtype=tf.float32), [192, dim]) * 0.7)
    return tf.matmul(flat, mix)


def unit(embeddings: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(embeddings, axis=-1)


def saved(folder: Path, function: Callable, *specs: tf.TensorSpec, signature: bool = True) -> Path:
    """A SavedModel whose serving_default is `function`, with one variable so that it has weights."""
    module = tf.Module()
    module.scale = tf.Variable(1.0)
    serve = tf.function(
        lambda *inputs: {key: value * tf.cast(module.scale, value.dtype) for key, value in function(*inputs).items()},
        input_signature=specs or (IMAGES,),
    )
    if signature:
        tf.saved_model.save(module, str(folder), signatures=serve.get_concrete_function())
    else:
        tf.saved_model.save(module, str(folder))
    return folder


def tensorflow_submissions(root: Path) -> dict[str, tuple[Path, str]]:
    """Name → (SavedModel folder, a part of the reason that it must be refused with)."""

    def embed(name: str, embeddings: Callable[[tf.Tensor], tf.Tensor], *specs: tf.TensorSpec) -> Path:
        return saved(root / name, lambda images: {"embedding_norm": embeddings(images)}, *specs)

    def nan_on_black(images: tf.Tensor) -> tf.Tensor:
        raw = features(images) * tf.reduce_mean(tf.cast(images, tf.float32))
        return raw / tf.norm(raw, axis=-1, keepdims=True)

    def batch_statistics(images: tf.Tensor) -> tf.Tensor:
        raw = features(images)
        return unit(raw + 3.0 * tf.reduce_mean(raw, axis=0, keepdims=True) * tf.cast(tf.shape(raw)[0] > 1, tf.float32))

    def with_dropout(images: tf.Tensor) -> tf.Tensor:
        return unit(tf.nn.dropout(features(images), 0.3))

    def valid_convolution(images: tf.Tensor) -> tf.Tensor:
        kernel = tf.reshape(tf.cos(tf.range(7 * 7 * 3 * 64, dtype=tf.float32)), [7, 7, 3, 64])
        maps = tf.nn.conv2d(tf.cast(images, tf.float32), kernel, 1, "VALID")
        return unit(tf.reduce_max(maps, axis=[1, 2]) + 1.0)

    fixed = tf.TensorSpec([None, 224, 224, 3], tf.uint8, name="images")
    floats = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
    pairs = tf.TensorSpec([2, None, None, 3], tf.uint8, name="images")
    two = (IMAGES, tf.TensorSpec([], tf.float32, name="temperature"))
    cases = {
        "128 numbers": (embed("wide", lambda images: unit(features(images, 128))), "the competition takes 1 … 64"),
        "not normalised": (embed("length", features), "length is off 1"),
        "NaN on black": (embed("nan", nan_on_black), "NaN or infinite for black"),
        "dropout left on": (embed("dropout", with_dropout), "two calls on the same image differ"),
        "batch statistics": (embed("batch", batch_statistics), "alone and in a batch of 4 differs"),
        "constant": (embed("constant", lambda images: unit(features(images) * 0.0 + 1.0)), "differ by 0"),
        "fixed size": (embed("fixed", lambda images: unit(features(images)), fixed), "fixed to [224, 224]"),
        "two images only": (embed("pairs", lambda images: unit(features(images)), pairs), "1, images is fixed to 2"),
        "float input": (embed("float", lambda images: unit(features(images)), floats), "expected a uint8 input"),
        "float16 output": (
            embed("half", lambda images: tf.cast(unit(features(images)), tf.float16)),
            "expected a float32 output",
        ),
        "small images fail": (embed("small", valid_convolution), "fails on an image of 1×1"),
        "a list of pixels": (
            embed("rank", lambda images: tf.reshape(unit(features(images)), [-1])),
            "expected an output [1, D]",
        ),
        "Keras's output name": (
            saved(root / "key", lambda images: {"output_0": unit(features(images))}),
            "expected an output embedding_norm",
        ),
        "two inputs": (
            saved(root / "two", lambda images, t: {"embedding_norm": unit(features(images) * t)}, *two),
            "expected one input",
        ),
        "no signature": (
            saved(root / "unsigned", lambda images: {"embedding_norm": features(images)}, signature=False),
            "no signature serving_default",
        ),
    }
    for views in (1, 2):
        found = two_signatures(root / f"halves-{views}", views)
        cases[f"another second signature, {views} view(s)"] = (found, "resized before differs by")
    good = embed("good", lambda images: unit(features(images)))
    torn = Path(shutil.copytree(good, root / "torn"))
    data = torn / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-3])
    cases["torn weights"] = (torn, "does not load")
    garbage = Path(shutil.copytree(good, root / "garbage"))
    (garbage / "saved_model.pb").write_bytes(b"this is no protobuf" * 10)
    cases["garbage graph"] = (garbage, "does not load")
    unknown = Path(shutil.copytree(good, root / "unknown"))
    graph = (unknown / "saved_model.pb").read_bytes()
    # an op that no version knows: the same length, so the protobuf stays whole
    (unknown / "saved_model.pb").write_bytes(graph.replace(b"ResizeBilinear", b"ResizeTomorrow"))
    cases["op of a later version"] = (unknown, "ResizeTomorrow")
    return cases


def two_signatures(folder: Path, views: int) -> Path:
    """A SavedModel whose embed_resized gives other embeddings than its serving_default: it takes BGR for RGB."""
    module = tf.Module()
    module.scale = tf.Variable(1.0)

    @tf.function(input_signature=[IMAGES])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding_norm": unit(features(images) * module.scale)}

    @tf.function(input_signature=[tf.TensorSpec([None, views, 8, 8, 3], tf.float32, name="pixels_8")])
    def embed_resized(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding_norm": unit(features(pixels[:, 0, :, :, ::-1]) * module.scale)}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve, "embed_resized": embed_resized})
    return folder


def zips(root: Path, good: Path) -> dict[str, tuple[Path, str]]:
    """Name → (zip file, a part of the reason): refused before anything is loaded."""
    files = {path.relative_to(good).as_posix(): path.read_bytes() for path in good.rglob("*") if path.is_file()}

    def packed(name: str, entries: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in entries.items():
                archive.writestr(entry, content)
        return root / name

    text = root / "text.zip"
    text.write_text("not a zip at all")
    whole = packed("whole.zip", files)
    torn = root / "torn.zip"
    torn.write_bytes(whole.read_bytes()[:-200])
    damaged = root / "damaged.zip"
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    link = zipfile.ZipInfo("variables/link")
    link.external_attr = 0o120777 << 16
    linked = packed("linked.zip", files)
    with zipfile.ZipFile(linked, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    liar = root / "liar.zip"  # states 64 bytes for an entry that unpacks to 80 MB
    with zipfile.ZipFile(packed("liar.zip", {**files, "variables/z": bytes(80 << 20)})) as archive:
        entry = archive.getinfo("variables/z")
    liar.write_bytes(liar.read_bytes().replace(struct.pack("<L", entry.file_size), struct.pack("<L", 64)))
    no_index = {name: value for name, value in files.items() if not name.endswith(".index")}
    no_data = {name: value for name, value in files.items() if ".data-" not in name}
    return {
        "not a zip": (text, "not a whole zip"),
        "torn zip": (torn, "not a whole zip"),
        "damaged entry": (damaged, "damaged"),
        "path outside": (packed("slip.zip", {**files, "../../escaped.txt": b"x"}), "leads outside"),
        "absolute path": (packed("absolute.zip", {**files, "/tmp/escaped.txt": b"x"}), "leads outside"),
        "link": (linked, "is a link"),
        "bomb": (packed("bomb.zip", {**files, "variables/zeros": bytes(80 << 20)}), "refused as a bomb"),
        "bomb that lies": (liar, "damaged"),
        "parent folder": (packed("parent.zip", {f"my_model/{k}": v for k, v in files.items()}), "parent folder"),
        "no index": (packed("index.zip", no_index), "variables.index is missing"),
        "no weights": (packed("data.zip", no_data), "no weights"),
        "a table": (packed("table.zip", {"submission.csv": b"id,indices\n"}), "not a model"),
        "empty": (packed("empty.zip", {}), "not a model"),
        "two models": (packed("both.zip", {**files, "saved_model.pt": b""}), "is one of the two"),
    }
