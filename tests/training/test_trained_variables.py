"""What a phase trains: blocks counted or by their share of the depth, each part at its own learning rate."""

import math

import keras
import pytest
import tensorflow as tf

from pipeline.config import Embedder, Encoder, Phase, Run
from pipeline.errors import BadInput
from pipeline.models import embedder as embedders
from pipeline.planning import costs
from pipeline.training import class_centers, optimizers

CLASSES = 7


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """MobileNet v1, narrow: a convolution and 13 pairs of a depthwise and a pointwise one; norms to be folded."""
    path = tmp_path_factory.mktemp("files") / "mobilenet.keras"
    network = keras.applications.MobileNet(
        weights=None, include_top=False, pooling="avg", alpha=0.25, input_shape=(32, 32, 3)
    )
    network.save(path)
    encoder = Encoder(name=f"keras_file:{path}", mean=[0.5] * 3, std=[0.5] * 3)
    return embedders.build(Run(encoder=encoder, embedder=Embedder(embedding_dim=4)))


@pytest.fixture(scope="module")
def centers():
    return class_centers.build(CLASSES, 1, 4, 0, False, tf.distribute.get_strategy())


def trained_layers(model, centers, word, **options):
    variables, factors = optimizers.trained_variables(model, centers, Phase(name="p", trainable=word, **options))
    assert len(variables) == len(factors) == len({id(v) for v in variables})
    held = {id(v) for v in variables}
    blocks = [layer for block in model.encoder.blocks for layer in block]
    return [layer.name for layer in blocks if all(id(v) in held for v in layer.variables)], variables, factors


def test_a_share_of_the_depth_is_that_many_kernels_from_the_end(mobilenet, centers):
    """60 % of a MobileNet leave its first convolution and five pairs as they are."""
    names, variables, _ = trained_layers(mobilenet, centers, "last 60 %")
    pairs = [name for pair in range(6, 14) for name in (f"conv_dw_{pair}", f"conv_pw_{pair}")]
    assert names == pairs
    assert len(variables) == 2 * 16 + len(mobilenet.head.trainable_variables) + 1
    counted, *_ = trained_layers(mobilenet, centers, "last 16 blocks")
    assert counted == names


@pytest.mark.parametrize(
    ("percent", "kernels"), [(1, 1), (4, 1), (7, 1), (8, 2), (50, 13), (60, 16), (99, 26), (100, 27)]
)
def test_every_share_is_rounded_down_to_whole_blocks_but_not_to_none(mobilenet, centers, percent, kernels):
    names, variables, _ = trained_layers(mobilenet, centers, f"last {percent} %")
    assert len(names) == kernels
    everything = trained_layers(mobilenet, centers, "all")[1]
    assert (len(variables) == len(everything)) == (percent == 100)


def test_a_catalogue_encoder_has_shares_too(centers):
    small = {"hidden_dim": 16, "num_layers": 3, "num_heads": 2, "intermediate_dim": 16}
    encoder = Encoder(name="clip_tiny", architecture=small, image_size_px=16)
    model = embedders.build(Run(encoder=encoder, embedder=Embedder(embedding_dim=4)))
    half = trained_layers(model, centers, "last 50 %")[1]
    assert [id(v) for v in half] == [id(v) for v in trained_layers(model, centers, "last 2 blocks")[1]]
    whole = trained_layers(model, centers, "last 100 %")[1]
    assert [id(v) for v in whole] == [id(v) for v in trained_layers(model, centers, "all")[1]]


def test_encoder_head_and_centres_have_their_own_rates(mobilenet, centers):
    options = {"encoder_rate_factor": 0.1, "centers_rate_factor": 10.0, "layer_decay": 0.5}
    head = len(mobilenet.head.trainable_variables)
    for word in ("all", "last 60 %", "last 3 blocks"):
        _, variables, factors = trained_layers(mobilenet, centers, word, **options)
        assert variables[-1] is centers.variable and factors[-1] == 10.0
        assert factors[-1 - head : -1] == [1.0] * head
        depth = (len(variables) - head - 1) // 2  # a kernel and a bias each
        expected = [0.1 * 0.5 ** (depth - 1 - i) for i in range(depth) for _ in range(2)]
        assert factors[: -1 - head] == pytest.approx(expected)
    assert trained_layers(mobilenet, centers, "head", **options)[2] == [*[1.0] * head, 10.0]
    assert len(trained_layers(mobilenet, centers, "encoder", **options)[1]) == 2 * 27


def test_a_plan_counts_what_is_trained(mobilenet, centers):
    run = Run(embedder=Embedder(embedding_dim=4))
    encoder = costs.built(mobilenet.encoder.model, 32, mobilenet.encoder.blocks)
    assert encoder.blocks == 26
    whole = {id(v) for v in mobilenet.encoder.model.variables}

    def counted(word):
        step = costs.step(encoder, run, Phase(name="p", trainable=word), CLASSES, on_features=False)
        return step.trained_parameters

    for word in ("last 1 %", "last 60 %", "last 26 blocks", "last 100 %", "encoder", "all"):
        _, variables, _ = trained_layers(mobilenet, centers, word)
        trained = sum(math.prod(v.shape) for v in variables if id(v) in whole)
        assert counted(word) - (0 if word == "encoder" else counted("head")) == trained, word


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("last 0 %", "1 … 100 %"),
        ("last 101 %", "1 … 100 %"),
        ("last %", "last N %"),
        ("last 1.5 %", "last N %"),
        ("first 10 %", "last N %"),
        ("last 27 blocks", "26 known blocks"),
        ("last 0 blocks", "26 known blocks"),
    ],
)
def test_another_word_is_bad_input(mobilenet, centers, word, message):
    with pytest.raises(BadInput, match=message):
        trained_layers(mobilenet, centers, word)
