"""Accelerators that `guie plan` knows: chips, their memory and peaks, and where they are found. No TensorFlow."""

import re
from dataclasses import dataclass

from pipeline.errors import BadInput, nearest


@dataclass(frozen=True)
class Chip:
    """What one replica has. Peaks are the makers', of dense products."""

    hbm_gib: float
    peak_flops: float  # bfloat16; float32 where the chip has no bfloat16
    bfloat16: bool = True
    is_tpu: bool = False


CHIPS = {
    "v3": Chip(16.0, 61.5e12, is_tpu=True),  # a core: two are a chip, and each is a replica
    "v4": Chip(32.0, 275e12, is_tpu=True),
    "v5e": Chip(16.0, 197e12, is_tpu=True),
    "v6e": Chip(32.0, 918e12, is_tpu=True),
    "T4": Chip(15.0, 8.1e12, bfloat16=False),
    "L4": Chip(22.5, 121e12),
    "A100": Chip(40.0, 312e12),
    "A100-80": Chip(80.0, 312e12),
    "H100": Chip(80.0, 989e12),
    "H200": Chip(141.0, 989e12),
}
DEVICE_NAMES = {  # what a driver, or TPU_ACCELERATOR_TYPE, calls a device; another form of a card has another peak
    r"v(3|4|6e)-\d+": r"v\1",
    r"v5(e|litepod)-\d+": "v5e",
    r"(Tesla|NVIDIA) T4": "T4",
    r"NVIDIA L4": "L4",
    r"(NVIDIA )?A100-(SXM4|PCIE)-40GB": "A100",
    r"NVIDIA A100-SXM4-80GB|NVIDIA A100 80GB PCIe": "A100-80",
    r"NVIDIA H100 80GB HBM3": "H100",
    r"NVIDIA H200": "H200",
}
SHOWN = ("v3-8", "v4-8", "v5e-8", "2xT4", "L4", "A100", "H100", "8xH100")
KAGGLE_DISK = 20e9  # bytes of /kaggle/working
KAGGLE_HOURS = {"v3-8": 9, "v5e-8": 9, "2xT4": 12}  # of a session
REPLICAS = {"v4": 2}  # of a TPU's name `v4-8`, the cores a replica: v4's cores are one device
# What a config is for, by its devices.kind: accelerator, where, TensorFlow.
FOR = {
    "tpu": "a TPU; Kaggle's TPU image or `make train-tpu`; tensorflow-tpu 2.20.0 with libtpu 0.0.17",
    "gpu": "GPUs; Kaggle's GPU image or tensorflow[and-cuda]; TensorFlow 2.20 or 2.21",
    "cpu": "the CPU; Kaggle's image without an accelerator or `make train`; TensorFlow 2.20 or 2.21",
    "auto": "what is there, a TPU, else GPUs, else the CPU; Kaggle's images, `make train` or `make train-tpu`; "
    "TensorFlow 2.20 or 2.21, on a TPU tensorflow-tpu 2.20.0 with libtpu 0.0.17",
}


@dataclass(frozen=True)
class Accelerator:
    name: str
    replicas: int
    chip: Chip

    @property
    def needs(self) -> str:
        """What TensorFlow it is driven by."""
        return "tensorflow-tpu 2.20 (make train-tpu)" if self.chip.is_tpu else "tensorflow[and-cuda]"


def chip_of(device: str) -> Chip | None:
    """The chip of a device by its name, such as `NVIDIA A100-SXM4-80GB` or `v5litepod-8`; None: not known.

    >>> chip_of("v5litepod-8") == CHIPS["v5e"], chip_of("NVIDIA L40S")
    (True, None)
    """
    found = [match.expand(chip) for form, chip in DEVICE_NAMES.items() if (match := re.fullmatch(form, device))]
    return CHIPS[found[0]] if found else None


def find(name: str) -> Accelerator:
    """`v5e-8`, a TPU by its cores; `A100`, one GPU; `8xA100`, several. BadInput for another name."""
    tpu, gpus = re.fullmatch(r"(v\d\w?)-(\d+)", name), re.fullmatch(r"(?:(\d+)x)?([A-Z].+)", name)
    if tpu and tpu[1] in CHIPS and int(tpu[2]) % REPLICAS.get(tpu[1], 1) == 0 and int(tpu[2]):
        return Accelerator(name, int(tpu[2]) // REPLICAS.get(tpu[1], 1), CHIPS[tpu[1]])
    if gpus and gpus[2] in CHIPS and int(gpus[1] or 1):
        return Accelerator(name, int(gpus[1] or 1), CHIPS[gpus[2]])
    known = [f"{chip}-8" if CHIPS[chip].is_tpu else chip for chip in CHIPS]
    raise BadInput(f"--on: expected such as v5e-8, A100 or 8xH100, got {name!r}; nearest: {nearest(name, known)}")
