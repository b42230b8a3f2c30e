"""What is attached to this machine, as far as it can be told without TensorFlow."""

from glob import glob
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

TENSORFLOWS = ("tensorflow-tpu", "tensorflow", "tensorflow-cpu")  # distributions that bring the package


def tpu_devices() -> list[str]:
    """The device files of TPU chips, by both of their drivers."""
    return sorted(glob("/dev/accel*") + glob("/dev/vfio/[0-9]*"))


def tensorflow_build() -> str:
    """Such as `tensorflow-tpu 2.20.0 with libtpu 0.0.17`: the distribution whose folder is imported, of several there.

    Where two wrote one folder, that for TPUs is named.
    """
    spec, libtpu = find_spec("tensorflow"), _distribution("libtpu")
    imported = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
    found = [
        f"{name} {known.version}"
        for name in TENSORFLOWS
        if (known := _distribution(name)) and Path(str(known.locate_file(""))).resolve() == imported
    ]
    return (found or ["no TensorFlow"])[0] + (f" with libtpu {libtpu.version}" if libtpu else "")


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
