"""A submission from somebody else: nothing of it is loaded before it is read, and what reaches out is refused."""

import functools
import os
import struct
import tarfile
import threading
import time
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import BadInput
from pipeline.evaluation import embedders, halves, submission_zip
from pipeline.evaluation.submission_zip import zip_submission
from pipeline.evaluation.untrusted import saved_model, tensorflow_ops, torchscript
from tests.evaluation.tiny import jpeg, run
from tests.export.broken_submissions import features, unit
from tests.faults.hostile_models import READING, Model, first_version, hidden_in_the_saver, save, tensorflow_models

SECRET = "a text of 21 letters\n"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for name, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        for number in range(3):
            jpeg(root / name / f"{number}.jpg", colour)
    return root


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """Where the models write; those that read find a file there."""
    return tmp_path_factory.mktemp("target") / "canary"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, target) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hostile")
    models = {**tensorflow_models(root, target), **hidden_in_the_saver(root, target)}
    return {**models, "WriteFile of version 1": first_version(root / "v1", target)}


def place(target: Path) -> None:
    """Puts the file there that some models read, as one that was last read long ago."""
    target.write_text(SECRET)
    os.utime(target, (0, time.time()))


def untouched(target: Path) -> bool:
    """Neither read nor written since `place`. The time of access comes first: the comparison reads."""
    return target.stat().st_atime == 0 and target.read_text() == SECRET


def expect_refused(paths: dict[str, Path], images: Path, target: Path, out: Path, capsys) -> None:
    """Runs check, score and embed on models that map what they hold → where they are."""
    place(target)
    code, text, error = run(capsys, "check", *paths.values())
    assert code == 2 and error.count("\n") == 1 and f"{len(paths)} of {len(paths)} refused" in error
    assert "in a process of" not in text  # none was started
    assert untouched(target)
    for name, path in paths.items():
        place(target)
        for command in (["score", path, "--index", images], ["embed", path, images, "--out", out]):
            code, _, error = run(capsys, *command)
            assert (code, error.count("\n")) == (2, 1), (name, error)
            assert name.split(" of ")[0].split(" in ")[0] in error and "with --trust" in error, (name, error)
        assert untouched(target), name
    assert not out.exists() and [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.faults("hostile SavedModel")
def test_a_saved_model_that_reaches_out_is_refused_before_it_is_loaded(hostile, images, target, tmp_path, capsys):
    named = {}
    for name, path in hostile.items():
        found = [each.split()[0] for each in saved_model.reaching(str(path), "model")[0]]
        others = {"TensorSliceDataset", "FlatMapDataset", "ReduceDataset"} if "Dataset" in name else set()
        others |= {"SaveV2"} if "Relu6" in name else set()
        assert set(found) == {name.split()[0]} | others, (name, found)
        named[name] = path
    zipped = tmp_path / "submission.zip"
    zip_submission(hostile["ReadFile"], zipped)
    expect_refused({**named, "ReadFile of a zip": zipped}, images, target, tmp_path / "out", capsys)


@pytest.mark.faults("hostile SavedModel")
@pytest.mark.parametrize(
    "name", ["WriteFile", "WriteFile in the initializer", "WriteFile in the restore function", "WriteFile of version 1"]
)
def test_with_trust_it_is_scored_and_does_what_it_does(name, hostile, images, target, capsys):
    target.unlink(missing_ok=True)
    code, text, _ = run(capsys, "score", hostile[name], "--index", images, "--trust")
    assert code == 0 and "mP@5" in text
    assert target.read_text() == "here"  # the tests above would have seen it


@pytest.mark.faults("hostile SavedModel")
def test_what_a_model_reads_would_have_been_seen(hostile, target):
    for name in READING:
        if name in hostile:
            place(target)
            try:
                embedders.load(str(hostile[name]), trust=True)
            except BadInput:
                assert name == "RestoreV2"  # the file is no checkpoint
            if name != "RestoreV2":
                assert os.stat(target).st_atime > 0, name


@pytest.mark.faults("hostile SavedModel")
def test_no_op_that_takes_a_name_is_allowed_unreviewed():
    """Of all ops of this TensorFlow: a new one that is stateful or holds a string stays refused until it is listed."""
    from tensorflow.python.framework import op_def_registry

    for op in "ReadFile WriteFile MatchingFiles ImmutableConst DecodeProtoV2 EncodeProto PyFunc PyFuncStateless " \
              "EagerPyFunc DebugIdentity XlaCallModule RemoteCall LoadAndRemapMatrix CacheDataset Abort Send".split():  # fmt: skip  # noqa: E501, SIM905
        assert not tensorflow_ops.is_allowed(op), op
    listed = tensorflow_ops.STRINGS | tensorflow_ops.STATEFUL
    unknown = {op for op in listed if op_def_registry.get(op) is None}
    assert unknown <= {"DecodeWebP"}  # of newer versions
    for op in tensorflow_ops.STRINGS - unknown:
        assert not op_def_registry.get(op).is_stateful and tensorflow_ops.strings(op_def_registry.get(op)), op
    for op in tensorflow_ops.STATEFUL - unknown:
        names = " ".join(tensorflow_ops.strings(op_def_registry.get(op)))
        assert not any(word in names for word in ("file", "path", "url", "address", "prefix", "token")), (op, names)


def test_models_of_others_that_reach_nothing_load_without_asking(tmp_path):
    import keras

    layers = keras.layers
    inputs = keras.Input((None, None, 3), dtype="uint8", name="images")
    flow = layers.Rescaling(1 / 255)(layers.Resizing(16, 16)(inputs))
    flow = layers.BatchNormalization()(layers.SeparableConv2D(8, 3)(layers.RandomFlip()(flow)))
    flow = layers.GlobalAveragePooling2D()(layers.Dropout(0.1)(flow))
    keras.Model(inputs, layers.UnitNormalization()(flow)).export(str(tmp_path / "keras"), verbose=False)

    class OneByOne(tf.Module):  # TF Models' exporter: a batch of 1, a loop over its images
        def __init__(self):
            self.scale = tf.Variable(1.0)

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8, name="image")])
        def serve(self, image):
            shrink = lambda each: tf.image.resize(tf.cast(each, tf.float32), [8, 8], "bicubic", antialias=True)  # noqa: E731
            resized = tf.map_fn(shrink, image, fn_output_signature=tf.float32)
            return {"embedding_norm": unit(tf.reshape(resized, [1, -1])[:, :64] * self.scale + 1.0)}

    save(OneByOne(), tmp_path / "google")
    first_version(tmp_path / "first", None)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    for name in ("keras", "google", "first"):
        found, nodes = saved_model.reaching(str(tmp_path / name), name)
        assert found == [] and nodes > 50, name
        found = embedders.load(str(tmp_path / name)).embed(pictures)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


@pytest.mark.faults("hostile TorchScript")
def test_torchscript_that_reaches_out_is_refused_before_it_is_loaded(images, target, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from tests.faults import hostile_torchscript

    target.unlink(missing_ok=True)
    folders = hostile_torchscript.models(tmp_path, target)
    target.unlink(missing_ok=True)  # some wrote it when they were made
    zips = {}
    for reason, folder in folders.items():
        zips[reason] = tmp_path / f"{folder.name}.zip"
        with zipfile.ZipFile(zips[reason], "w") as archive:
            archive.write(folder / "saved_model.pt", "saved_model.pt")
    expect_refused(zips, images, target, tmp_path / "out", capsys)
    target.unlink()
    code, text, _ = run(capsys, "score", zips["aten::from_file ("], "--index", images, "--trust")
    assert code == 0 and "mP@5" in text and target.exists()
    target.unlink()
    torch.jit.load(str(folders["aten::from_file (code/__torch__/"] / "saved_model.pt"))
    assert target.exists()  # it is loading alone that writes


@pytest.mark.faults("hostile TorchScript")
def test_a_zip_that_two_readers_could_read_differently_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from tests.faults import hostile_torchscript

    whole = hostile_torchscript.save(hostile_torchscript.Harmless(), tmp_path / "whole") / "saved_model.pt"
    assert torchscript.reaching(whole, "model")[0] == []
    content = whole.read_bytes()
    assert content[-42:-38] == b"PK\x06\x07"  # PyTorch writes the 64-bit directory, too: it counts
    at = len(content) - 22 - 20 - 8
    stated = struct.unpack("<Q", content[at : at + 8])[0]
    for entry in ("model.json", "CODE/other.txt", "other/x"):
        path = hostile_torchscript.with_entry(tmp_path / entry.replace("/", "-"), whole, entry)
        with pytest.raises(BadInput, match=f"holds '{entry.lower()}', which no TorchScript file"):
            torchscript.reaching(path / "saved_model.pt", "model")
    broken = [
        b"PTMF" + content,  # the start of PyTorch's other format
        content[:-2] + b"\x04\x00more",  # a comment, which may hold another directory
        content[:at] + struct.pack("<Q", stated - 46) + content[at + 8 :],  # a directory that is elsewhere
    ]
    for changed in broken:
        path = tmp_path / "saved_model.pt"
        path.write_bytes(changed)
        with pytest.raises(BadInput, match=r"saved_model\.pt"):
            torchscript.reaching(path, "model")
    assert torch.jit.load(str(whole)) is not None


@pytest.mark.faults("hostile zip")
def test_deep_wide_and_shared_zips_are_one_line_and_write_nothing(images, tmp_path, capsys, monkeypatch):
    good = save(Model(), tmp_path / "good")
    files = {path.relative_to(good).as_posix(): path.read_bytes() for path in good.rglob("*") if path.is_file()}

    def packed(name: str, entries: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, content in {**files, **entries}.items():
                archive.writestr(entry, content)
        return tmp_path / name

    zeros = bytes(63 << 20)
    cases = {
        "folders deep": packed("deep.zip", {"a/" * 1500 + "b": b"x"}),
        "a name of 2,005 characters": packed("long.zip", {f"a/{'b' * 2003}": b"x"}),
        "refused as a bomb": packed("wide.zip", {f"assets/{number}": zeros for number in range(6)}),
        "leads outside the zip": packed("lines.zip", {"../a\nb\r\n": b"x"}),
    }
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for said, path in cases.items():
        for command in (["check", path], ["score", path, "--index", images]):
            start = time.perf_counter()
            code, _, error = run(capsys, *command)
            assert code == 2 and said in error and error.count("\n") == 1 and len(error) < 500, error
            assert time.perf_counter() - start < 5
        written = sum(each.stat().st_size for each in temporary.rglob("*") if each.is_file())
        assert written == 0, said
    assert submission_zip.inspect(packed("good.zip", {"assets/words.txt": b"x" * 1000})) == "tensorflow"


@pytest.mark.faults("hostile SavedModel")
def test_a_second_signature_is_used_only_where_it_is_the_same_function(images, tmp_path, capsys):
    """Else `score` would rate another function than the one that the competition calls."""

    class TwoFaced(Model):
        def __init__(self, description: str, turned: bool):
            super().__init__()
            self.turned = turned
            self.resizing = tf.function(lambda: tf.constant(description), input_signature=[])

        @tf.function(input_signature=[tf.TensorSpec([None, 1, 8, 8, 3], tf.float32, name="pixels_8")])
        def embed_resized(self, pixels):
            pixels = pixels[:, 0, :, :, ::-1] if self.turned else pixels[:, 0]
            return {"embedding_norm": unit(features(pixels) * self.scale)}

    from pipeline.data.preprocessing import Preprocess

    whole = halves.described([Preprocess(8, (0.0,) * 3, (1.0,) * 3, "bilinear", False)], [], 1.0)
    for name, turned in (("same", False), ("turned", True)):
        module = TwoFaced(whole, turned)
        signatures = {"serving_default": module.serve, "embed_resized": module.embed_resized}
        tf.saved_model.save(module, str(tmp_path / name), signatures=signatures)
        assert (embedders.load(str(tmp_path / name)).halves is None) == turned
    for description, sound in (
        (whole, True),
        (whole.replace('"image_size_px": 8', '"image_size_px": 10000000'), False),
        (whole.replace('"crops": []', f'"crops": {[[0, 0]] * 1000}'), False),
        ("{", False),
    ):
        module.resizing = lambda description=description: tf.constant(description)
        module.signatures = {"embed_resized": module.embed_resized}
        assert (halves.of_saved_model(module, "embedding_norm") is not None) == sound
    _, text, _ = run(capsys, "score", tmp_path / "turned", "--index", images)
    assert "warning: " in text and "another function than its serving_default" in text


@pytest.mark.faults("hostile SavedModel")
def test_a_hub_handle_is_somebody_elses_too(hostile, images, target, tmp_path, capsys, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    with tarfile.open(site / "model.tar.gz", "w:gz") as archive:
        for path in sorted(hostile["WriteFile"].rglob("*")):
            archive.add(path, path.relative_to(hostile["WriteFile"]).as_posix(), recursive=False)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handle = f"http://127.0.0.1:{server.server_port}/model.tar.gz"
        target.unlink(missing_ok=True)
        code, _, error = run(capsys, "score", handle, "--index", images)
        assert code == 2 and f"{handle}: holds WriteFile (" in error and not target.exists()
        code, _, _ = run(capsys, "score", handle, "--index", images, "--trust")
        assert code == 0 and target.read_text() == "here"
        server.shutdown()
