"""The only module that knows TPUs, GPUs and CPUs: finds them, gives the strategy and the precision."""

import json
import os
import platform
from dataclasses import dataclass, replace

import keras
import tensorflow as tf

from pipeline import config
from pipeline.attached import tensorflow_build, tpu_devices
from pipeline.errors import BadInput, reason
from pipeline.planning.accelerators import Chip, chip_of


@dataclass(frozen=True)
class Found:
    """What the training runs on."""

    strategy: tf.distribute.Strategy
    kind: str  # tpu | gpu | cpu
    precision: str  # float32 | mixed_bfloat16
    description: str  # one line
    host_index: int = 0
    hosts: int = 1
    chip: Chip | None = None  # of a replica; None: not known, or a CPU

    @property
    def is_chief(self) -> bool:
        return self.host_index == 0

    def of_all_hosts(self, number: int) -> list[int]:
        """Each host's `number`; all hosts must ask at the same point."""
        if self.hosts == 1:
            return [number]
        mine = self.strategy.run(lambda: tf.constant([number], tf.int64))
        return self.strategy.gather(mine, axis=0).numpy().tolist()

    def jit(self, wanted: bool) -> bool:
        """Whether a replica's function asks XLA for itself: a TPU's strategy compiles all that it runs.

        Not for bfloat16 on a CPU: XLA takes its products in float32, the plain graph in half the time
        (`tests/benchmarks/bench_encoder.py`).
        """
        return wanted and self.kind != "tpu" and (self.kind, self.precision) != ("cpu", "mixed_bfloat16")


def connect(options: config.Devices) -> Found:
    """Finds the devices and sets Keras' precision; BadInput where the kind or number asked for is not here.

    Call it before anything else touches TensorFlow.
    """
    if options.rehearse:
        found = _cpus(options.rehearse, "rehearsal on ")
    elif options.hosts:
        found = _several_hosts(options)
    elif options.kind == "tpu" or (options.kind == "auto" and (options.tpu or _tpu_is_likely())):
        found = _tpu(options)
    elif options.kind == "gpu" or (options.kind == "auto" and tf.config.list_physical_devices("GPU")):
        found = _gpus(options)
    else:
        found = _cpus(options.replicas or 1)
    precision = found.precision if options.precision == "auto" else options.precision
    keras.config.set_dtype_policy(precision)
    # TPUs and GPUs multiply float32 in fewer bits unless all are asked for; what may lose them is bfloat16 already.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return replace(found, precision=precision, description=f"{found.description}, {precision}")


def _tpu_is_likely() -> bool:
    return bool(os.environ.get("TPU_NAME") or (tpu_devices() and os.environ.get("PJRT_DEVICE", "TPU") == "TPU"))


def _tpu(options: config.Devices) -> Found:
    address = options.tpu or os.environ.get("TPU_NAME", "") or "local"
    build, devices = tensorflow_build(), ", ".join(tpu_devices()) or "no /dev/accel* and no /dev/vfio/*"
    rehearsal = "without a TPU, `guie train CONFIG devices.rehearse=8` rehearses its step on the CPU"
    if address == "local" and not build.startswith("tensorflow-tpu"):
        wanted = "expected TensorFlow for TPUs (tensorflow-tpu)"
        raise BadInput(f"{wanted}, found {build}; {devices}: `make train-tpu` makes an environment for it; {rehearsal}")
    print(
        f"devices: {build}, Python {platform.python_version()}; looks for a TPU at {address!r} ({devices})", flush=True
    )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        why = [line for line in str(error).splitlines() if line.strip() and "[[" not in line]
        said = f"no TPU device answers at {address!r} ({reason(ValueError(*why[-1:]))}); found {build}; {devices}"
        raise BadInput(f"{said}: {rehearsal}") from None
    strategy = tf.distribute.TPUStrategy(resolver)
    cores = strategy.num_replicas_in_sync
    on = f"TPU {address}: {cores} cores on {max(cores // 8, 1)} host(s)"
    return Found(strategy, "tpu", "mixed_bfloat16", on, chip=chip_of(os.environ.get("TPU_ACCELERATOR_TYPE", "")))


def _gpus(options: config.Devices) -> Found:
    """One GPU, or several under MirroredStrategy, which sums over NCCL."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise BadInput("devices.kind=gpu, but TensorFlow sees no GPU: install tensorflow[and-cuda], or kind=auto")
    count = options.replicas or len(gpus)
    if count > len(gpus):
        raise BadInput(f"devices.replicas={count}, but TensorFlow sees {len(gpus)} GPU(s)")
    names, precision, chip = _of_gpus(gpus[:count], options.precision)
    devices = [f"/gpu:{index}" for index in range(count)]
    strategy = tf.distribute.MirroredStrategy(devices) if count > 1 else tf.distribute.OneDeviceStrategy(devices[0])
    return Found(strategy, "gpu", precision, f"{count} GPU(s): {names}", chip=chip)


def _of_gpus(gpus: list, asked: str) -> tuple[str, str, Chip | None]:
    """Names, precision and chip; bfloat16 where all have it, which is from compute capability 8.0 on.

    float16 is not offered: its gradients need their loss scaled.
    """
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [entry.get("device_name", "?") for entry in details]
    lacking = [name for name, e in zip(names, details, strict=True) if e.get("compute_capability", (0, 0)) < (8, 0)]
    if lacking and asked == "mixed_bfloat16":
        raise BadInput(f"devices.precision={asked}: {lacking[0]} has no bfloat16: use auto, which is float32 there")
    chips = {chip_of(name) for name in names}
    return ", ".join(names), "float32" if lacking else "mixed_bfloat16", chips.pop() if len(chips) == 1 else None


def _cpus(replicas: int, what: str = "") -> Found:
    description = f"{what}{replicas} logical CPU replica(s) on {os.cpu_count()} cores"
    if replicas == 1:
        return Found(tf.distribute.OneDeviceStrategy("/cpu:0"), "cpu", "float32", description)
    _split_cpu(replicas)
    # Summed on one device: as collectives, logical CPU devices at times meet in another order and fail.
    sums = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(replicas)], sums)
    return Found(strategy, "cpu", "float32", description)


def _several_hosts(options: config.Devices) -> Found:
    if not 0 <= options.host_index < len(options.hosts):
        raise BadInput(f"devices.host_index: expected 0 … {len(options.hosts) - 1}, got {options.host_index}")
    task = {"type": "worker", "index": options.host_index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": options.hosts}, "task": task})
    gpus = tf.config.list_physical_devices("GPU")
    _, precision, chip = _of_gpus(gpus, options.precision) if gpus else ("", "float32", None)
    if not gpus and options.replicas > 1:
        _split_cpu(options.replicas)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index, hosts = options.host_index, len(options.hosts)
    description = f"host {index} of {hosts}, {strategy.num_replicas_in_sync} replicas in all"
    return Found(strategy, "gpu" if gpus else "cpu", precision, description, index, hosts, chip)


def _split_cpu(replicas: int) -> None:
    """Several logical devices on one CPU; refused once TensorFlow has started with another number."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    except RuntimeError:
        if (there := len(tf.config.list_logical_devices("CPU"))) < replicas:
            came = f"{replicas} CPU replicas asked for after TensorFlow started with {there}"
            raise BadInput(f"{came}: set devices before anything else runs") from None
