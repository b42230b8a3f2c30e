"""The served graph averages several sizes; formats that cannot say so."""

import numpy as np
import pytest
import yaml

from export import saved_model
from pipeline import cli
from pipeline.config import Embedder, Encoder, Export, Run
from pipeline.data.preprocessing import prepare
from pipeline.errors import BadInput
from pipeline.models import embedder, encoders
from tests.export.test_export import images_of, served
from tests.training.tiny_runs import VIT, unit

SMALL = {"name": "clip_tiny", "image_size_px": 16, "architecture": VIT}


@pytest.mark.parametrize(("flip", "fit"), [(False, "squash"), (True, "crop"), (True, "aspect")])
def test_the_served_graph_averages_the_directions_of_every_size(tmp_path, flip, fit):
    options = Encoder(**SMALL, fit=fit)
    run = Run(encoder=options, embedder=Embedder(sizes_px=[16, 32, 24]), export=Export(flip_average=flip))
    built = embedder.build(run)
    for variable in built.head.trainable_variables:
        variable.assign(variable + np.random.default_rng(4).normal(scale=0.1, size=variable.shape))
    saved_model.save_embedder(run, built, tmp_path / "model")
    images, (kernel, bias), total = images_of(40, 60), built.head.get_weights(), 0.0  # 60: crops are in the middle
    for view in (images, images[:, :, ::-1])[: 1 + flip]:
        features = []
        for size in (16, 32, 24):
            encoder = encoders.build(Encoder(**{**SMALL, "image_size_px": size}, fit=fit))
            encoders.transfer(built.encoder, encoder)
            features.append(unit(np.asarray(encoder.model(prepare(view, encoder.preprocess)))))
        total = total + unit(unit(np.mean(features, axis=0)) @ kernel + bias)
    np.testing.assert_allclose(served(tmp_path / "model", images), unit(total), atol=1e-5)


@pytest.mark.parametrize(
    ("formats", "override", "said"),
    [
        ("onnx", "embedder.sizes_px=[24,32]", "averages several sizes, for saved_model only"),
        ("torchscript", "embedder.sizes_px=[24,32]", "averages several sizes, for saved_model only"),
        ("litert", "embedder.sizes_px=[24,32]", "averages several sizes, for saved_model only"),
        ("onnx", "encoder.fit=crop", "onnx would squash images to a square, but encoder.fit is crop"),
        ("litert", "encoder.fit=aspect", "images keep their aspect, which saved_model can alone"),
        ("torchscript", "encoder.fit=pad", "torchscript would squash images to a square, but encoder.fit is pad"),
    ],
)
def test_a_format_that_cannot_hold_it_is_refused_before_anything_is_written(tmp_path, capsys, formats, override, said):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"run_dir": str(tmp_path / "run"), "encoder": SMALL}))
    overrides = [f"export.formats=[saved_model,{formats}]", override]
    assert cli.main(["export", str(tmp_path / "tiny.yaml"), *overrides]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_litert_takes_square_images_so_how_they_became_square_is_the_apps():
    export = Export(formats=["saved_model", "litert"])
    assert saved_model.formats_beside(Run(encoder=Encoder(**SMALL, fit="crop"), export=export)) == ["litert"]
    with pytest.raises(BadInput, match="onnx and torchscript would squash"):
        both = Export(formats=["onnx", "torchscript"])
        saved_model.formats_beside(Run(encoder=Encoder(**SMALL, fit="crop"), export=both))
