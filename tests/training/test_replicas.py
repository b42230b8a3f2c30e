"""Several replicas under XLA: what is compiled, and where features are computed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.eager import context

from pipeline.training import feature_cache
from pipeline.training.class_centers import rows_from

ROOT = Path(__file__).parents[2]
HEAD = {"name": "head", "trainable": "head", "init": "lda", "epochs": 1, "batch_size": 8, "learning_rate": 1e-2}
HELD_OUT = ["train.fold=classes 1/4", "train.validate_every_epochs=0.5"]


@pytest.mark.slow
def test_features_are_computed_over_replicas_under_xla_as_by_one(tiny):
    phases = f"train.phases={json.dumps([HEAD])}"
    single = tiny.train("one replica", phases, *HELD_OUT)
    config = shutil.copy(tiny.config, tiny.folder / "compiled.yaml")
    asked = [phases, *HELD_OUT, "devices.replicas=2", "train.compile=true", f"run_dir={tiny.folder / 'compiled'}"]
    script = [sys.executable, "-m", "tests.training.rehearsals", json.dumps({str(config): asked})]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert "exit code 0" in done.stdout, done.stdout + done.stderr[-3000:]
    rows = tiny.trained("compiled", phases).rows()
    assert [row["loss"] for row in rows] == pytest.approx(single.losses(), rel=1e-4)
    scores, expected = (
        [row["validation/mP@5"] for row in of if "validation/mP@5" in row] for of in (rows, single.rows())
    )
    assert len(scores) == 2 and scores == pytest.approx(expected)


def test_features_are_not_computed_in_the_scope_of_the_hosts_processor(tiny, monkeypatch):
    """In the scope of a dataset's device an encoder runs on that device, whatever its strategy."""
    scopes, encode = [], feature_cache.Encoding.of

    def watched(*given):
        scopes.append(context.context().device_name)
        return encode(*given)

    monkeypatch.setattr(feature_cache.Encoding, "of", watched)
    tiny.train("scope", f"train.phases={json.dumps([{**HEAD, 'init': 'random'}])}")
    assert scopes == [""]


def test_rows_of_a_replica_have_a_shape_that_xla_knows_where_its_number_is_an_input():
    """As on a TPU, where one program is compiled for all replicas."""

    def compiled(take):
        program = tf.function(lambda rows: take(rows, xla.replica_id() * 3), jit_compile=True)
        return program.experimental_get_compiler_ir(tf.zeros([12, 2]))(stage="hlo")

    assert "f32[3,2]{1,0} dynamic-slice" in compiled(lambda rows, first: rows_from(rows, first, 3))
    with pytest.raises(ValueError, match="replica-id"):
        compiled(lambda rows, first: rows[first : first + 3])
    values = np.arange(24.0).reshape(12, 2)
    np.testing.assert_array_equal(rows_from(tf.constant(values), tf.constant(6), 3), values[6:9])
