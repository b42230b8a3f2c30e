"""`guie score` on anybody's embedder: folders, shards, sizes and colour modes of every kind, refusals in one line."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import cli
from pipeline.config import Embedder, Encoder, Run, Score
from pipeline.data import sources
from pipeline.errors import BadInput
from pipeline.evaluation import embedders, references
from pipeline.retrieval.metrics import hits_of_predictions, mean_precision_at_5
from tests.tfrecords import shard_files
from tfrecords import pixels
from tfrecords.shards import ShardWriter, index_path


class MeanColour(tf.Module):
    """The smallest embedder that keeps the contract: mean colour of the four quarters, at unit length."""

    def __init__(self, width=12, output="embedding_norm"):
        self.scale = tf.Variable(tf.eye(12)[:, :width] if width <= 12 else tf.ones([12, width]))
        self.output = output

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def embed(self, images):
        quarters = tf.reshape(tf.image.resize(tf.cast(images, tf.float32), [2, 2], method="area"), [-1, 12])
        return {self.output: tf.math.l2_normalize((quarters + 1.0) @ self.scale, axis=-1)}


def save(module, folder):
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.embed})
    return folder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return save(MeanColour(), tmp_path_factory.mktemp("embedder"))


def jpeg(path, colour, size=(32, 24), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(map(ord, str(path.name)))).integers(-20, 20, (size[1], size[0], 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).convert(mode).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two colours that are told apart, in many sizes, modes and kinds of file."""
    root = tmp_path_factory.mktemp("things") / "things"
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        for number in range(4):
            jpeg(root / name / f"{number}.jpg", colour, size=(20 + 13 * number, 31 - 5 * number))
        jpeg(root / name / "palette.png", colour, mode="P")
        jpeg(root / name / "alpha.png", colour, mode="RGBA")
        jpeg(root / name / "cmyk.jpg", colour, mode="CMYK")
        jpeg(root / name / "large.webp", colour, size=(301, 199))
    return root


def run(capsys, *arguments):
    code = cli.main([str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_size_and_colour_mode_is_scored(embedder, folder, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    code, text, _ = run(capsys, "score", embedder, "--index", folder, "--out", out)
    result = json.loads(out.read_text())
    assert code == 0 and "things" in text
    assert result["mP@5"] == 1.0 and result["domains"]["things"]["queries"] == 16
    assert result["embedding_dim"] == 12 and not result["rejects"]
    assert 0 <= result["references"]["raw_pixels"] <= 1


def test_a_zip_scores_as_its_folder_and_from_any_directory(embedder, folder, tmp_path, capsys, monkeypatch):
    archive = tmp_path / "submission.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in embedder.rglob("*"):
            file.write(path, path.relative_to(embedder))
    monkeypatch.chdir(tmp_path)
    code, _, _ = run(capsys, "score", "submission.zip", "--index", folder, "--out", "m.json")
    assert code == 0 and json.loads((tmp_path / "m.json").read_text())["mP@5"] == 1.0


def test_several_indexes_merge_and_queries_pair_with_them(embedder, tmp_path, capsys):
    for split, count in (("index", 3), ("query", 2)):
        for number in range(count):
            jpeg(tmp_path / "a" / split / "red" / f"{number}.png", (220, 30, 30))
            jpeg(tmp_path / "a" / split / "green" / f"{number}.png", (30, 220, 30))
            jpeg(tmp_path / "b" / split / "red" / f"{number}.png", (205, 45, 45))  # another domain's red
            jpeg(tmp_path / "b" / split / "grey" / f"{number}.png", (120, 120, 120))
    arguments = ["--index", tmp_path / "a/index", "--index", tmp_path / "b/index"]
    arguments += [
        "--queries",
        tmp_path / "a/query",
        "--queries",
        tmp_path / "b/query",
        "--out",
        tmp_path / "m.json",
    ]
    code, text, _ = run(capsys, "score", embedder, *arguments)
    result = json.loads((tmp_path / "m.json").read_text())
    assert code == 0 and set(result["domains"]) == {"a", "b"} and "all, one index" in text
    assert result["domains"]["a"] == {**result["domains"]["a"], "mP@5": 1.0, "queries": 4, "index": 6}
    assert result["mP@5"] <= 1.0 and not result["leave_one_out"]


def shard_of(folder, source, images):
    """A shard of (label, colour) images, named as `guie tfrecords` names it."""
    path = folder / f"{source}-test-00-{len(images)}.tfrec"
    writer = ShardWriter(path)
    for number, (label, colour) in enumerate(images):
        encoded = shard_files.jpeg(np.full((8, 8, 3), colour, np.uint8))
        writer.write(shard_files.example(encoded, label, f"{source}-{number}", source))
    writer.close()
    index_path(path).write_text(writer.index_text(), encoding="ascii")


def test_a_class_merged_over_sources_is_one_class_in_the_merged_index(embedder, tmp_path, capsys):
    red, green, blue = [(200, 20, 20), (190, 20, 20)], [(20, 200, 20)] * 2, [(20, 20, 200)] * 2
    for split in ("index", "queries"):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "labels.json").write_text(f'{{"of": "{split}"}}')  # of two builds, with the same labels
        shard_of(folder, "s1", [*((0, colour) for colour in red), *((1, colour) for colour in green)])
        shard_of(folder, "s2", [*((0, colour) for colour in red), *((2, colour) for colour in blue)])
    index, queries = (tmp_path / split / "*.tfrec" for split in ("index", "queries"))

    def scored(*arguments):
        assert run(capsys, "score", embedder, *arguments, "--out", tmp_path / "m.json")[0] == 0
        return json.loads((tmp_path / "m.json").read_text())["mP@5"]

    assert scored("--index", index) == scored("--index", index, "--queries", queries) == 1.0
    (
        tmp_path / "index" / "labels.json"
    ).unlink()  # the same numbers of nobody knows what: each source for itself
    assert scored("--index", index) < 1.0


def test_an_unreadable_image_is_left_out_and_named(embedder, folder, tmp_path, capsys):
    for name in ("red", "blue"):
        for number in range(3):
            jpeg(tmp_path / "set" / name / f"{number}.jpg", (200, 0, 0) if name == "red" else (0, 0, 200))
    (tmp_path / "set/red/broken.jpg").write_bytes((tmp_path / "set/red/0.jpg").read_bytes()[:150])
    (tmp_path / "set/red/notes.txt").write_text("not an image")
    code, text, _ = run(capsys, "score", embedder, "--index", tmp_path / "set", "--out", tmp_path / "m.json")
    rejects = json.loads((tmp_path / "m.json").read_text())["rejects"]
    assert code == 0 and {reject["key"].split("/")[-1] for reject in rejects} == {"broken.jpg", "notes.txt"}
    assert "2 image(s) left out" in text


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    jpeg(tmp_path / "photos [2024]" / "red" / "0.jpg", (200, 0, 0))
    (images,) = sources.open_data(str(tmp_path / "photos [2024]"))
    assert images.name == "photos [2024]" and [item.key for item in images.items] == ["red/0.jpg"]


def test_embed_writes_a_row_an_image(embedder, folder, tmp_path, capsys):
    code, _, _ = run(capsys, "embed", embedder, folder, "--out", tmp_path / "out")
    vectors = np.load(tmp_path / "out/embeddings.npy")
    rows = list(csv.DictReader((tmp_path / "out/items.csv").open()))
    assert code == 0 and vectors.shape == (16, 12) and vectors.dtype == np.float32 and len(rows) == 16
    assert {row["class"] for row in rows} == {"red", "blue"} and {row["source"] for row in rows} == {"things"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nothing", "nothing is there"),
        (lambda path: path, "no saved_model.pb"),
        (lambda path: _write(path / "saved_model.pb", b"junk").parent, "not a SavedModel"),
        (lambda path: _write(path / "x.zip", b"junk"), "expected a submission.zip"),
        (lambda path: _zip(path / "x.zip", {"../evil": b""}), "leads outside"),
        (lambda path: _zip(path / "x.zip", {"folder/saved_model.pb": b""}), "at the root of the zip"),
        (lambda path: _damaged(path), "saved_model.pb' is damaged"),
        (lambda path: save(MeanColour(width=65), path / "wide"), "got [1, 65]"),
        (lambda path: _unsigned(path / "none"), "serving_default"),
    ],
)
def test_what_is_no_embedder_is_refused_in_one_line(make, said, folder, tmp_path, capsys):
    code, _, error = run(capsys, "score", make(tmp_path), "--index", folder)
    assert code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path / "nowhere", "nowhere"),
        (lambda path: path, ""),
        (lambda path: str(path / "*.tfrec"), "no shard matches"),
        (lambda path: f"nolayout:{path}", "unknown layout"),
    ],
)
def test_data_that_is_not_there_is_refused_in_one_line(make, said, embedder, tmp_path, capsys):
    code, _, error = run(capsys, "score", embedder, "--index", make(tmp_path))
    assert code == 2 and said in error and error.count("\n") == 1


def test_classes_of_one_image_each_cannot_be_scored(embedder, tmp_path, capsys):
    for name in ("red", "blue"):
        jpeg(tmp_path / "set" / name / "0.png", (200, 0, 0))
    code, _, error = run(capsys, "score", embedder, "--index", tmp_path / "set")
    assert code == 2 and "at least two images" in error


def test_an_odd_embedders_only_output_is_taken_whatever_its_name(folder, tmp_path):
    submission = embedders.load(str(save(MeanColour(output="other"), tmp_path / "odd")))
    assert submission.embed(np.zeros((2, 5, 7, 3), np.uint8)).shape == (2, 12)


def test_an_embedder_of_single_images_scores_as_one_of_batches(embedder, folder, tmp_path, capsys):
    class Single(tf.Module):
        def __init__(self):
            self.any_number = MeanColour()

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def embed(self, image):
            return self.any_number.embed(image)

    found = []
    for each in (embedder, save(Single(), tmp_path / "single")):
        assert run(capsys, "score", each, "--index", folder, "--out", tmp_path / "m.json")[0] == 0
        found.append(json.loads((tmp_path / "m.json").read_text())["mP@5"])
    assert found[0] == found[1]
    images = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3), np.uint8)
    several, singly = (embedders.load(str(each)).embed(images) for each in (embedder, tmp_path / "single"))
    np.testing.assert_allclose(several, singly, atol=1e-6)


def test_queries_are_projected_on_the_indexs_principal_components(tmp_path):
    tiny = {"patch_size": 8, "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "intermediate_dim": 32}
    run = Run(
        run_dir=str(tmp_path),
        encoder=Encoder(name="clip_vit_b_32", image_size_px=16, pooling="class_token", architecture=tiny),
        embedder=Embedder(embedding_dim=4),
        score=Score(references=["pca"]),
    )
    rng = np.random.default_rng(0)
    index, queries, other = (rng.normal(size=(count, 16)) * rng.random(16) for count in (40, 9, 50))
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "train-ffff.npy", other)  # of an encoder that a later phase trained
    rows = references.References(run)
    found = [rows.finish({"features": each})["pca4"] for each in (index, queries)]

    index, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (index, queries))
    axes = np.linalg.svd(index - index.mean(axis=0))[2][:4].T
    expected = [(each - index.mean(axis=0)) @ axes for each in (index, queries)]
    expected = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in expected]
    np.testing.assert_allclose(
        found[1] @ found[0].T, expected[1] @ expected[0].T, atol=1e-5
    )  # whatever the signs


def test_the_competitions_solution_is_scored_public_and_private_apart(tmp_path, capsys):
    rng = np.random.default_rng(0)
    ids = [f"q{n}" for n in range(6)] + [f"i{n}" for n in range(40)]
    vectors = rng.normal(size=(46, 8)).astype(np.float32)
    solution = {
        f"q{n}": [f"i{m}" for m in rng.choice(40, rng.integers(1, 9), replace=False)] for n in range(6)
    }
    solution["missing"] = ["i1"]
    lines = [
        f"{q},{' '.join(wanted)},{'Public' if n % 2 else 'Private'}"
        for n, (q, wanted) in enumerate(solution.items())
    ]
    (tmp_path / "solution.csv").write_text("id,index ids,Usage\n" + "\n".join(lines) + "\n")
    np.savez(tmp_path / "e.npz", ids=np.array(ids), embeddings=vectors)
    out = tmp_path / "m.json"
    code, text, _ = run(
        capsys, "score", tmp_path / "e.npz", "--solution", tmp_path / "solution.csv", "--out", out
    )
    distances = np.linalg.norm(vectors[:6, None] - vectors[None, 6:], axis=2)
    predictions = {f"q{n}": [f"i{m}" for m in np.argsort(distances[n])[:5]] for n in range(6)}
    result = json.loads(out.read_text())
    assert code == 0 and "1 queries of the solution have no embedding" in text
    assert result["mP@5"] == pytest.approx(mean_precision_at_5(*hits_of_predictions(predictions, solution)))
    assert set(result["usage"]) == {"Public", "Private"} and result["usage"]["Private"]["queries"] == 4


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "id,index ids,Usage\nq1,i1\n"])
def test_a_solution_of_another_form_is_refused(text, tmp_path):
    from pipeline.evaluation.solution import read_solution

    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(BadInput):
        read_solution(tmp_path / "s.csv")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_embeddings_that_cannot_be_read_are_refused_in_one_line(content, tmp_path, capsys):
    (tmp_path / "s.csv").write_text("id,index ids,Usage\nq1,i1,Public\n")
    path = _write(tmp_path / "e.npz", content)
    code, _, error = run(capsys, "score", path, "--solution", tmp_path / "s.csv")
    assert code == 2 and "expected embeddings with ids" in error and error.count("\n") == 1


def _write(path, content):
    path.write_bytes(content)
    return path


def _zip(path, entries):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def _damaged(folder):
    """A zip whose directory is whole and whose first entry does not decompress."""
    noise = np.random.default_rng(0).integers(0, 16, 5000, np.uint8).tobytes()
    path, weights = folder / "x.zip", "variables/variables"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("saved_model.pb", f"{weights}.index", f"{weights}.data-00000-of-00001"):
            file.writestr(name, noise)
    content = bytearray(path.read_bytes())
    content[50:90] = b"\xff" * 40
    return _write(path, content)


def _unsigned(folder):
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(folder))
    return folder


def test_16_bit_and_upright_turning_are_done_on_purpose():

    file = io.BytesIO()
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(file, "PNG")
    assert pixels.read(file.getvalue()).min() == 255
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(file, "JPEG", exif=exif)
    assert pixels.read(file.getvalue()).shape == (6, 4, 3)
