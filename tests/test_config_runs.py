"""The mission's configs as `guie run` runs them, on real photographs in their layouts, with a narrow encoder."""

import json
from pathlib import Path

import pytest

from pipeline import cli, config
from pipeline.data.records import open_any
from tests.test_configs import BIG, CONFIGS, TRAINING, narrowed

ROOTS = {"products-10k": "products10k"}  # of the config → where the photographs at hand lie
# 100, 61 and 6 classes are too few for 1 % and 2 % of them.
SMALL = [
    "records.cap_per_class=2",
    "records.min_per_class=2",
    "records.split={train: 0.9, validation: 0.05, test: 0.05}",
]


def of_tiny_data(name: str, data: Path, run_dir: Path) -> list[str]:
    """Overrides: real photographs, two a class; a narrow encoder; phases of a few steps; the devices that are here."""
    run = config.load(config.Run, CONFIGS[name])
    found = narrowed(name, Path("no keras file"))
    shape = json.loads(found[-1].partition("=")[2])
    wide = {**shape, "hidden_dim": 64, "intermediate_dim": 64}  # a head of 64 discriminants asks for as many features
    found[-1] = f"encoder.architecture={json.dumps(wide)}"
    found += [f"train.phases.{number}.epochs=0.03" for number in range(len(run.train.phases))]
    for number, source in enumerate(run.records.sources):
        found.append(f"records.sources.{number}.root={ROOTS.get(source.root, source.root)}")
    return [*found, *SMALL, f"data_root={data}", f"run_dir={run_dir}", "devices.kind=cpu", "train.compile=false"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BIG if name in TRAINING])
def test_a_run_of_it_ends_with_a_score_on_classes_that_were_never_trained_on(name, shared, tmp_path):
    assert cli.main(["run", str(CONFIGS[name]), *of_tiny_data(name, shared / "data", tmp_path)]) == 0
    parts = [open_any([str(tmp_path / f"records/*-{split}-*.tfrec")]) for split in ("train", "validation", "test")]
    classes = [set(part.labels.tolist()) for part in parts if part is not None]
    assert len(classes) == 3 and not classes[0] & classes[1] and not classes[0] & classes[2]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[-1]["validation/mP@5"] <= 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["embedding_dim"] == 64 and 0 <= metrics["mP@5"] <= 1
    assert {"raw_pixels", "untrained"} <= set(metrics["references"])
    assert "mP@5, all domains" in (tmp_path / "export/model_card.md").read_text()
    assert set(metrics["domains"]) <= {source.name for source in config.load(config.Run, CONFIGS[name]).records.sources}
