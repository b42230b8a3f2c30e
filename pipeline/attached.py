"""What is attached to this machine, as far as it can be told without TensorFlow."""

from glob import glob
from importlib.metadata import PackageNotFoundError, version

TENSORFLOWS = ("tensorflow-tpu", "tensorflow", "tensorflow-cpu")  # distributions that bring the package


def tpu_devices() -> list[str]:
    """The device files of TPU chips, by both of their drivers."""
    return sorted(glob("/dev/accel*") + glob("/dev/vfio/[0-9]*"))


def tensorflow_build() -> str:
    """Such as `tensorflow-tpu 2.20.0 with libtpu 0.0.17`; the wheels for a TPU are named before the stock ones."""
    found = [f"{name} {known}" for name in TENSORFLOWS if (known := _version(name))]
    libtpu = _version("libtpu")
    return (found or ["no TensorFlow"])[0] + (f" with libtpu {libtpu}" if libtpu else "")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
