"""`guie plan`: what features, kept encoders, averages and several sizes take, beside what a tiny run computes."""

import json
import tracemalloc

import numpy as np
import pytest

from pipeline.config import Embedder, Encoder, Export, Keep, Lda, Optimizer, Phase, Run, Train
from pipeline.planning import costs, estimates, plan
from pipeline.training import starts

SMALL = {"patch_size": 8, "hidden_dim": 96, "num_layers": 2, "num_heads": 4, "intermediate_dim": 384}
CLASSES, SIDE = 50, 64


def phases_of(sizes_px: list[int], *phases: Phase) -> list[plan.PhasePlan]:
    run = Run(
        encoder=Encoder(name="clip_vit_b_32", image_size_px=SIDE, architecture=SMALL),
        embedder=Embedder(init="lda", sizes_px=sizes_px),
        train=Train(phases=list(phases), optimizer=Optimizer(name="adamw")),
    )
    return [
        estimates.plan_phase(run, number, estimates.SetSize(1000, CLASSES, "given"), 0.35)
        for number in range(len(phases))
    ]


def forward(size_px: int, overlap_px: int = 0) -> float:
    return estimates.encoder_costs(Encoder(name="clip_vit_b_32", architecture=SMALL), size_px, overlap_px).flops


def test_features_are_computed_once_for_the_start_the_head_and_the_teacher():
    head, tuned, anew, overlapped = phases_of(
        [48, SIDE],
        Phase(name="head"),
        Phase(name="tuned", trainable="all", keep=Keep(features=1.0)),
        Phase(name="anew", init="lda"),
        Phase(name="overlapped", trainable="all", patch_overlap_px=2, keep=Keep(features=1.0, sizes_px=[SIDE])),
    )
    found = [sum(each.flops for each in planned.passes) for planned in (head, tuned, anew, overlapped)]
    both = forward(48) + forward(SIDE)
    assert found == pytest.approx([both, 0.0, both, forward(SIDE, 2)]) and forward(SIDE, 2) > forward(SIDE)
    assert [planned.features_px for planned in (tuned, overlapped)] == [(48, SIDE), (SIDE,)]
    seconds = (1000 * both + anew.steps * 128 * anew.costs.flops) / (0.35 * 4 * 275e12)
    assert anew.estimates["v4-8"].hours == pytest.approx(seconds / 3600)


@pytest.mark.slow
def test_training_computes_features_as_often_as_the_plan_says(tiny):
    phases = [
        {"name": "head", "epochs": 0.25, "batch_size": 8},
        {"name": "tune", "trainable": "all", "epochs": 0.25, "batch_size": 8, "keep": {"features": 1.0}},
        {"name": "anew", "init": "lda", "epochs": 0.25, "batch_size": 8},
    ]
    keys = "embedder.init=lda", "embedder.lda.components=8", "embedder.sizes_px=[16,24]"
    made = tiny.train("planned", f"train.phases={json.dumps(phases)}", *keys)
    size = estimates.SetSize(32, 8, "given")
    planned = [estimates.plan_phase(made.run, number, size, 0.35) for number in range(3)]
    assert [len(each.passes) for each in planned] == [2, 0, 2]
    assert len(list((made.folder / "features").rglob("features.npy"))) == 4


def test_a_kept_encoder_and_averages_are_in_memory_beside_the_tuned_weights():
    plain, kept, averaged, wise = phases_of(
        [],
        Phase(name="plain", trainable="all"),
        Phase(name="kept", trainable="all", keep=Keep(weights=0.1)),
        Phase(name="averaged", trainable="all", average_from=0.5),
        Phase(name="wise", trainable="all", interpolation=0.5),
    )
    memory = [planned.estimates["v4-8"].memory for planned in (plain, kept, averaged, wise)]
    encoder = estimates.encoder_costs(Encoder(name="clip_vit_b_32", architecture=SMALL), SIDE).parameters
    assert [each["weights"] - memory[0]["weights"] for each in memory[1:]] == [4 * encoder, 0, 4 * encoder]
    trained = plain.costs.trained_parameters
    assert [each["optimizer"] - memory[0]["optimizer"] for each in memory[1:]] == [0, 4 * trained, 0]


def test_a_pass_at_a_larger_size_may_need_more_memory_than_the_step():
    size, batch = 16 * SIDE, 64 / 4
    (planned,) = phases_of([size], Phase(name="p", trainable="last 1 block", batch_size=4))
    larger = estimates.encoder_costs(Encoder(name="clip_vit_b_32", architecture=SMALL), size)
    assert planned.estimates["v4-8"].memory["activations"] == batch * 2 * larger.forward_elements


@pytest.mark.parametrize("name", ["pca", "lda"])
def test_the_hosts_memory_is_what_the_start_takes(name):
    images, width = 20_000, 128
    features = np.random.default_rng(0).normal(size=(images, width)).astype(np.float32)
    labels = np.arange(images) % 200
    tracemalloc.start()
    starts.start(Embedder(embedding_dim=48, lda=Lda(components=48)), name, features, labels, np.zeros(200, int))
    peak = tracemalloc.get_traced_memory()[1] + features.nbytes
    tracemalloc.stop()
    assert costs.host_bytes(images, width, starts=True) == pytest.approx(peak, rel=0.05)


def test_several_sizes_and_the_mirror_are_in_what_serving_costs(capsys):
    run = Run(
        encoder=Encoder(name="clip_vit_b_32", architecture=SMALL),
        embedder=Embedder(sizes_px=[48, SIDE]),
        export=Export(flip_average=True),
        train=Train(phases=[Phase(name="p")]),
    )
    plan.main(plan.Options(run, images=1000, classes=CLASSES))
    each = 2 * (forward(48) + forward(SIDE))
    line = next(
        row for row in capsys.readouterr().out.splitlines() if row.startswith("served: 48 and 64 px, 2 view(s)")
    )
    assert f"{each / 1e9:,.4g} GFLOP an image" in line and f"{each * 205_000 / 32_400 / 1e12:.2g} TFLOP/s" in line
