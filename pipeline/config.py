"""YAML and dotted overrides → frozen dataclasses. An unknown key or a wrong type stops the run.

The dataclasses below are the schema of a run's YAML (`configs/*.yaml`); other stages keep theirs beside their code
and load them through the same `load`. Checking of types is OmegaConf's.
"""

import dataclasses
import difflib
import sys
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import BadInput

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Source:
    """One image set in a public layout. `options` are the layout's own, see `tfrecords/sources/`."""

    layout: str = MISSING  # a name in tfrecords.sources.LAYOUTS
    name: str = MISSING  # goes into shard names, labels.json, the score table's domains
    root: str = ""  # relative paths are taken from `data_root`
    cap_per_class: int | None = None  # None: records.cap_per_class
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Shares of the splits; they must sum to 1. Chosen by hash, so a rerun and a larger set choose the same."""

    by: str = "class"  # "class": whole classes, so validation and test classes are never trained on; "item"
    train: float = 1.0
    validation: float = 0.0
    test: float = 0.0


@dataclass(frozen=True)
class Records:
    sources: list[Source] = field(default_factory=list)
    split: Split = field(default_factory=Split)
    cap_per_class: int = 50
    min_per_class: int = 2  # a class with one image has no neighbour to find
    image_size_px: int = 384  # the shorter side of a stored image is at most this
    jpeg_quality: int = 95
    images_per_shard: int = 1024
    workers: int = 0  # 0: one process a core
    max_reject_share: float = 0.05  # more rejects than this share of the images fail the build
    merge_classes: str = ""  # CSV `source,class,into_source,into_class`: classes that are the same thing
    near_duplicates: bool = False  # also report near-duplicates across splits (perceptual hash)
    runner: str = "processes"  # processes | beam: Apache Beam, over several machines
    beam_options: list[str] = field(default_factory=list)  # Beam's own flags, e.g. --runner=FlinkRunner


@dataclass(frozen=True)
class Encoder:
    """What turns pixels into features; `pipeline/models/encoders.py` lists the names."""

    name: str = ""  # a catalogue name, or keras_file:<path>; records alone need none
    weights: str = "none"  # preset | open_clip:<tag or file> | file:<path> | none (random)
    image_size_px: int | None = None  # None: the encoder's own
    pooling: str | None = None  # None: the encoder's own
    mean: list[float] | None = None  # of pixels scaled to [0, 1]; None: the encoder's own
    std: list[float] | None = None
    patch_overlap_px: int = 0
    stochastic_depth: float = 0.0
    checkpointing: bool = False  # recompute activations in the backward pass
    architecture: dict[str, Any] = field(default_factory=dict)  # dimensions that replace the catalogue's


@dataclass(frozen=True)
class Embedder:
    embedding_dim: int = 64
    dropout: float = 0.2
    init: str = "random"  # random | pca: of the frozen encoder's features, when the first phase runs on those


@dataclass(frozen=True)
class Loss:
    name: str = "arcface"  # the only one here; triplets are `guie similar train`'s
    scale: float = 30.0
    margin_radians: float = 0.3
    subcenters: int = 1
    sharded: bool = False  # class centres split over the replicas: pays from some 100,000 classes on
    largest_margin_radians: float | None = (
        None  # dynamic margin: the smallest class's; the largest has margin_radians
    )


@dataclass(frozen=True)
class Optimizer:
    name: str = "adamw"  # adam | adamw | sgd | adafactor
    weight_decay: float = 1e-4
    momentum: float = 0.9  # sgd
    clip_norm: float | None = None
    accumulate_steps: int = 1
    ema: float | None = None  # decay of the averaged weights that are validated and exported


@dataclass(frozen=True)
class Augment:
    flip: bool = False
    crop_scale_min: float = 1.0  # random resized crop: smallest share of the area; 1.0 is none
    crop_aspect_max: float = 1.33
    color_jitter: float = 0.0  # 0 … 1
    rand_augment: float = 0.0  # magnitude 0 … 1
    cutout: float = 0.0  # side of the cut square as a share of the image's


@dataclass(frozen=True)
class Phase:
    """One stretch of training. A phase whose encoder is frozen and unaugmented runs on features computed once."""

    name: str = MISSING
    trainable: str = "head"  # head | encoder | all | last N blocks
    epochs: float = 1.0
    batch_size: int = 128  # global, over all replicas
    learning_rate: float = 1e-3
    end_learning_rate: float = 0.0
    warmup_epochs: float = 0.0
    encoder_rate_factor: float = 1.0
    layer_decay: float = 1.0
    margin_radians: float | None = None  # at the start of the phase; None: loss.margin_radians
    end_margin_radians: float | None = None  # None: the margin stays
    image_size_px: int | None = None  # None: encoder.image_size_px
    patch_overlap_px: int | None = None  # None: encoder.patch_overlap_px
    min_images_per_class: int = 0  # classes with fewer are drawn more often
    augment: Augment = field(default_factory=Augment)


@dataclass(frozen=True)
class Train:
    phases: list[Phase] = field(default_factory=list)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    seed: int = 0
    compile: bool = False  # XLA (always on a TPU)
    log_every_steps: int = 20
    checkpoint_every_steps: int = 500
    checkpoints_kept: int = 2
    validate_every_epochs: float = 1.0
    init_from: str = ""  # a checkpoint of another run
    records: list[str] = field(default_factory=lambda: ["{run_dir}/records/*-train-*.tfrec"])  # globs
    validation: list[str] = field(default_factory=lambda: ["{run_dir}/records/*-validation-*.tfrec"])


@dataclass(frozen=True)
class Devices:
    kind: str = "auto"  # auto | tpu | gpu | cpu
    tpu: str = ""  # name or grpc address of a remote TPU; empty: the local one
    hosts: list[str] = field(default_factory=list)  # host:port of every host, this one is `host_index`
    host_index: int = 0
    replicas: int = 0  # logical CPU devices; 0: one
    precision: str = "auto"  # auto | float32 | mixed_bfloat16
    rehearse: int = 0  # N: the step of the TPU run on N logical CPU replicas under XLA, for a few steps
    rehearse_steps: int = 5


@dataclass(frozen=True)
class Export:
    formats: list[str] = field(default_factory=lambda: ["saved_model"])  # saved_model torchscript onnx litert
    flip_average: bool = False
    crops: int = 1


@dataclass(frozen=True)
class Score:
    index: list[str] = field(
        default_factory=lambda: ["{run_dir}/records/*-test-*.tfrec"]
    )  # DATA, see score.py
    queries: list[str] = field(default_factory=list)  # empty: leave-one-out over the index
    references: list[str] = field(default_factory=lambda: ["raw_pixels", "untrained"])
    batch_size: int = 64


@dataclass(frozen=True)
class Submit:
    competition: str = "google-universal-image-embedding"
    dataset: str = ""  # owner/slug
    kernel: str = ""  # owner/slug
    message: str = ""
    encoder_model: str = ""  # owner/model/framework/variation/version: attach it and upload the head alone
    records_datasets: list[str] = field(
        default_factory=list
    )  # owner/slug of shards, for the training notebook
    extra_wheels: list[str] = field(default_factory=list)  # what the notebook's image lacks, as pip names it
    poll_seconds: float = 30.0
    timeout_hours: float = 12.0


@dataclass(frozen=True)
class Run:
    """A whole run: what `guie run CONFIG` reads."""

    name: str = ""  # empty: the config file's name
    run_dir: str = ""  # empty: runs/<name>
    data_root: str = "${oc.env:GUIE_DATA,''}"
    records: Records = field(default_factory=Records)
    encoder: Encoder = field(default_factory=Encoder)
    embedder: Embedder = field(default_factory=Embedder)
    train: Train = field(default_factory=Train)
    devices: Devices = field(default_factory=Devices)
    export: Export = field(default_factory=Export)
    score: Score = field(default_factory=Score)
    submit: Submit = field(default_factory=Submit)


def load(schema: type[Schema], path: str | Path, overrides: list[str] | None = None) -> Schema:
    """Reads a YAML file and `KEY=VALUE` overrides into `schema`, a frozen dataclass.

    Raises:
        BadInput: no such file, not YAML, a key that `schema` lacks (the nearest ones are named), a value of the
            wrong type, a required key left out, an override without `=` or whose value is not YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"expected a config file, {path} does not exist{_near_files(path)}")
    try:
        given = OmegaConf.load(path)
    except Exception as error:  # PyYAML's errors share no base with OmegaConf's
        raise BadInput(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(given):
        raise BadInput(f"{path}: expected a mapping of keys at the top")
    for override in overrides or []:
        _override(given, override)
    _refuse_unknown_keys(schema, given, "", path)
    try:
        merged = OmegaConf.structured(schema)
        OmegaConf.set_readonly(merged, False)
        for node in _dataclass_nodes(merged):
            OmegaConf.set_readonly(node, False)
        merged = OmegaConf.merge(merged, given)
        if "name" in merged and not merged.name:
            merged.name = path.stem
        if "run_dir" in merged and not merged.run_dir:
            merged.run_dir = f"runs/{merged.name}"
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, TypeError) as error:  # TypeError: containers that cannot be merged
        where = getattr(error, "full_key", None)
        raise BadInput(f"{path}: {f'key {where}: ' if where else ''}{_first_line(error)}") from None
    return typing.cast(Schema, config)


def from_command_line(schema: type[Schema], argv: list[str], command: str) -> Schema:
    """`guie COMMAND CONFIG [KEY=VALUE …]` → config. `--help` prints the usage and exits."""
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"usage: guie {command} CONFIG [KEY=VALUE …]\n\nCONFIG is a YAML file (configs/ holds some); KEY is dotted."
        )
        sys.exit(0 if argv else 2)
    return load(schema, argv[0], argv[1:])


def to_yaml(config: Any) -> str:
    """The config as run, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def resolve_data_path(path: str, data_root: str) -> Path:
    """A path of the config: absolute as it is, relative below `data_root`.

    Raises:
        BadInput: the path is relative and there is no `data_root`.
    """
    if Path(path).is_absolute():
        return Path(path)
    if not data_root:
        raise BadInput(
            f"{path!r} is relative to data_root, which is not set: set GUIE_DATA or data_root=FOLDER"
        )
    return Path(data_root) / path


def _override(given: Any, override: str) -> None:
    """Sets the key of one `KEY=VALUE` in `given`; raises BadInput as `load`."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise BadInput(f"expected KEY=VALUE, got {override!r}")
    parts = key.split(".")
    try:
        for index, part in enumerate(parts):
            rows = OmegaConf.select(given, ".".join(parts[:index])) if index else {}
            if OmegaConf.is_list(rows) and part not in map(str, range(-len(rows), len(rows))):
                raise BadInput(
                    f"{override}: {'.'.join(parts[:index])} has {len(rows)} entries, counted from 0"
                )
        OmegaConf.update(given, key, OmegaConf.from_dotlist([f"value={value}"]).value)
    except yaml.MarkedYAMLError as error:
        raise BadInput(
            f"{override}: the value is not YAML ({error.problem}): put text with signs of YAML in quotes, "
            f"{key}='\"…\"'"
        ) from None
    except IndexError:
        raise BadInput(f"{override}: expected a dotted key such as train.seed before the '='") from None
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise BadInput(f"{override}: {_first_line(error)}") from None


def _refuse_unknown_keys(schema: Any, given: Any, prefix: str, path: Path) -> None:
    if not OmegaConf.is_dict(given):
        return  # a wrong type: OmegaConf says so at the merge
    hints = typing.get_type_hints(schema)
    for key in given:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=3, cutoff=0.5) or sorted(hints)
            raise BadInput(
                f"{path}: unknown key {prefix}{key}; nearest known: {', '.join(prefix + name for name in near)}"
            )
        hint, node = hints[key], dict(given.items_ex(resolve=False))[key]
        inner = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            _refuse_unknown_keys(hint, given._get_node(key), f"{prefix}{key}.", path)
        elif typing.get_origin(hint) is list and OmegaConf.is_dict(node):
            raise BadInput(f"{path}: {prefix}{key}: expected a list, got the mapping {node}")
        elif inner and dataclasses.is_dataclass(inner[0]) and OmegaConf.is_list(node):
            for index, entry in enumerate(node):
                if not OmegaConf.is_dict(entry):
                    raise BadInput(f"{path}: {prefix}{key}.{index}: expected a mapping, got {entry!r}")
                _refuse_unknown_keys(inner[0], OmegaConf.create(entry), f"{prefix}{key}.{index}.", path)


def _dataclass_nodes(node: Any) -> list[Any]:
    children = [node._get_node(key) for key in node] if OmegaConf.is_dict(node) else []
    children = [child for child in children if OmegaConf.is_dict(child)]
    return children + [grandchild for child in children for grandchild in _dataclass_nodes(child)]


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=3, cutoff=0.3)
    return f"; nearest: {', '.join(near)}" if near else ""


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
