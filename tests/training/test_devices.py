"""GPUs as they are chosen and what they are asked to compute in; TensorFlow's own answers are replaced."""

from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from pipeline import config
from pipeline.errors import BadInput
from pipeline.planning.accelerators import CHIPS, chip_of
from pipeline.training import devices

A100 = {"device_name": "NVIDIA A100-SXM4-80GB", "compute_capability": (8, 0)}
T4 = {"device_name": "Tesla T4", "compute_capability": (7, 5)}


@pytest.fixture
def machine(monkeypatch):
    """Of GPUs with the given details; keeps what strategy was made, and of which devices."""
    made = []

    def of(*details):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(details) if kind == "GPU" else [])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu)
        monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: None)
        for name in ("MirroredStrategy", "OneDeviceStrategy"):
            strategy = SimpleNamespace(num_replicas_in_sync=len(details))
            monkeypatch.setattr(tf.distribute, name, lambda on, name=name, s=strategy: made.append((name, on)) or s)
        return made

    yield of
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", ["auto", "gpu"])
def test_several_gpus_are_mirrored_in_bfloat16(machine, kind):
    made = machine(A100, A100)
    found = devices.connect(config.Devices(kind=kind))
    assert made == [("MirroredStrategy", ["/gpu:0", "/gpu:1"])]  # of GPUs alone it sums over NCCL
    assert (found.kind, found.precision, found.chip) == ("gpu", "mixed_bfloat16", CHIPS["A100-80"])
    assert keras.config.dtype_policy().name == "mixed_bfloat16" and found.jit(True)


def test_as_many_gpus_are_taken_as_replicas_are_asked_for(machine):
    made = machine(A100, A100, T4)
    devices.connect(config.Devices(kind="gpu", replicas=2))
    devices.connect(config.Devices(kind="gpu", replicas=1))
    assert made == [("MirroredStrategy", ["/gpu:0", "/gpu:1"]), ("OneDeviceStrategy", "/gpu:0")]
    with pytest.raises(BadInput, match=r"replicas=4, but TensorFlow sees 3 GPU\(s\)"):
        devices.connect(config.Devices(kind="gpu", replicas=4))


def test_a_gpu_without_bfloat16_computes_in_float32_and_is_not_asked_for_it(machine):
    machine(A100, T4)
    found = devices.connect(config.Devices(kind="gpu"))
    assert found.precision == "float32" and found.chip is None  # of two kinds none has the others' peak
    with pytest.raises(BadInput, match="Tesla T4 has no bfloat16"):
        devices.connect(config.Devices(kind="gpu", precision="mixed_bfloat16"))


@pytest.mark.parametrize(
    ("device", "chip"),
    [
        ("v3-8", "v3"), ("v4-256", "v4"), ("v5litepod-8", "v5e"), ("v6e-8", "v6e"), ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"), ("A100-SXM4-40GB", "A100"), ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("NVIDIA L40S", None), ("v5p-8", None),
        ("NVIDIA H100 PCIe", None), ("NVIDIA H200 NVL", None), ("", None),
    ],
)  # fmt: skip
def test_a_chip_is_known_by_its_drivers_name(device, chip):
    assert chip_of(device) == (CHIPS[chip] if chip else None)
