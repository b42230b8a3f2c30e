"""The keys of a run's YAML (`configs/*.yaml`), each with its default and its range.

The four older systems keep theirs in their own rooms (`zero_shot/config.py` …) and share the sections here.
"""

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from pipeline.config.keys import key
from pipeline.config.training import STARTS, Train
from pipeline.guards.masked import shown

SPLITS = ("train", "validation", "test")  # of records
LARGEST_DIM = 64  # of an embedding that is submitted: the competition's limit
REFERENCES = ("raw_pixels", "untrained", "raw_features", "pca", "half_whitened", "pml_arcface")


@dataclass(frozen=True)
class ImageSource:
    """One image set in a public layout. `options` are the layout's own, see `tfrecords/sources/`."""

    layout: str = MISSING  # a name in tfrecords.sources.LAYOUTS
    name: str = MISSING  # goes into shard names, labels.json, the score table's domains
    root: str = ""  # relative paths are taken from `data_root`
    cap_per_class: int | None = key(None, least=1)  # None: records.cap_per_class
    options: dict[str, Any] = field(default_factory=dict)  # the layout's own keys


@dataclass(frozen=True)
class Source(ImageSource):
    """An image set that records are built of. `options` are the layout's own, see `tfrecords/sources/`."""

    split: str | None = key(None, one_of=SPLITS)  # all of it goes there, as a benchmark splits; None: records.split


@dataclass(frozen=True)
class Split:
    """Shares of the splits; they must sum to 1. Chosen by hash, so a rerun and a larger set choose the same."""

    by: str = key("class", one_of=("class", "item"))  # class: validation and test classes are never trained on
    train: float = key(1.0, least=0)  # share of the classes or items
    validation: float = key(0.0, least=0)  # share, scored while training
    test: float = key(0.0, least=0)  # share, scored at the end
    left_out: list[str] = field(default_factory=list)  # sources that are test data whole: domains never trained on

    def rules(self) -> Iterator[tuple[str, str]]:
        shares = {name: getattr(self, name) for name in SPLITS}
        if abs(sum(shares.values()) - 1) > 1e-6:
            came = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            yield "train", f"expected shares that sum to 1, got {came} (sum {sum(shares.values()):g})"


@dataclass(frozen=True)
class Records:
    """The section `records`: images on disk → shards."""

    sources: list[Source] = field(default_factory=list)
    split: Split = field(default_factory=Split)
    cap_per_class: int = key(50, least=1)  # images a class at most, of each source
    min_per_class: int = 2  # smaller classes are left out: one image has no neighbour to find
    image_size_px: int = key(384, least=1)  # the shorter side of a stored image is at most this
    jpeg_quality: int = key(95, least=1, most=100)  # of the images that are encoded anew
    images_per_shard: int = key(1024, least=1)  # images in a shard, at most
    workers: int = 0  # 0: one process a core
    max_reject_share: float = 0.05  # more rejects than this share of the images fail the build
    merge_classes: str = ""  # CSV `source,class,into_source,into_class`: classes that are the same thing
    leave_out: str = ""  # CSV with `source,key`, such as leaks.csv of `guie leaks`: images that are not taken
    near_duplicates: bool = False  # also report near-duplicates across splits (perceptual hash)
    runner: str = key("processes", one_of=("processes", "beam"))  # beam: Apache Beam, over several machines
    beam_options: list[str] = key([], urls=True)  # Beam's own flags, e.g. --runner=FlinkRunner

    @property
    def whole_splits(self) -> dict[str, str]:
        """Source → split, of the sources that go to one whole."""
        given = {source.name: source.split for source in self.sources if source.split}
        return {**given, **dict.fromkeys(self.split.left_out, "test")}

    @property
    def trained_sources(self) -> list[Source]:
        """The sources that are trained on, all of them or a share."""
        return [source for source in self.sources if self.whole_splits.get(source.name, "train") == "train"]

    def rules(self) -> Iterator[tuple[str, str]]:
        for number, source in enumerate(self.sources):
            if source.split not in (None, "test") and source.name in self.split.left_out:
                yield f"sources.{number}.split", f"expected test or null, {source.name} is left out; got {source.split}"


@dataclass(frozen=True)
class Encoder:
    """What turns pixels into features; `pipeline/models/catalogue.py` lists the names."""

    name: str = ""  # a catalogue name, or keras_file:<path>; records alone need none
    weights: str = "none"  # preset | preset:<folder> | open_clip:<tag or file> | file:<path> | none (random)
    image_size_px: int | None = key(None, least=1)  # None: the encoder's own
    pooling: str | None = None  # None: the encoder's own
    mean: list[float] | None = None  # of pixels scaled to [0, 1]; None: the encoder's own
    std: list[float] | None = None  # of the same pixels
    # an image to image_size_px: squash, crop and pad to the square, aspect as it is; None: squash
    fit: str | None = key(None, one_of=("squash", "crop", "pad", "aspect"))
    patch_overlap_px: int = key(0, least=0)  # by which a transformer's patches overlap, in px
    # chance that the last block is skipped in training; the first block's is 0
    stochastic_depth: float = key(0.0, least=0, most=0.9999999)
    checkpointing: bool = False  # recompute activations in the backward pass
    architecture: dict[str, Any] = field(default_factory=dict)  # dimensions that replace the catalogue's


@dataclass(frozen=True)
class Lda:
    """Linear discriminants for classes that are not seen, see training.starts; chosen by folds."""

    components: int = key(384, least=1)  # principal components that they are sought among
    shrinkage: float = key(0.8, least=0, most=1)  # of the within-class scatter, towards its mean variance
    between: float = key(0.2, least=0, most=1)  # of the scatter that is spread, between classes; the rest is the total


@dataclass(frozen=True)
class Embedder:
    """The section `embedder`: the head that makes the embedding of the encoder's features."""

    embedding_dim: int = key(64, least=1)  # at most the competition's 64, unless any_width
    any_width: bool = False  # an embedding of more than 64 numbers: trained, embedded and scored, not submitted
    dropout: float = key(0.2, least=0, most=0.999)  # share of the features that are dropped in training
    init: str = key("random", one_of=STARTS)  # of the head and the class centres, at the first phase
    lda: Lda = field(default_factory=Lda)
    sizes_px: list[int] = key([], least=1)  # features are averaged over these; empty: encoder.image_size_px alone
    batch_norm: bool = False  # before the projection: its statistics are of the whole batch, on all replicas
    trained_dim: int | None = key(None, least=2)  # losses see so many numbers, PCA makes embedding_dim of them
    pca_images: int = key(130_000, least=2)  # of the training records, at most, that this PCA is fitted on

    @property
    def loss_dim(self) -> int:
        """Width of the head and the class centres in training."""
        return self.trained_dim or self.embedding_dim

    def rules(self) -> Iterator[tuple[str, str]]:
        if self.embedding_dim > LARGEST_DIM and not self.any_width:
            came = f"got {self.embedding_dim}: embedder.any_width=true where nothing is submitted"
            yield "embedding_dim", f"expected at most {LARGEST_DIM}, the competition's limit, {came}"
        if self.trained_dim is not None and self.trained_dim <= self.embedding_dim:
            came = f"{self.trained_dim}: leave trained_dim out to train the embedding itself"
            yield "trained_dim", f"expected more than embedding_dim {self.embedding_dim}, got {came}"
        if self.init == "lda" and self.loss_dim > self.lda.components:
            yield "lda.components", f"expected at least the {self.loss_dim} of the head, got {self.lda.components}"


@dataclass(frozen=True)
class Devices:
    """The section `devices`: where is trained."""

    # auto: a TPU where there is one, else GPUs, else the CPU
    kind: str = key("auto", one_of=("auto", "tpu", "gpu", "cpu"))
    tpu: str = key("", urls=True)  # name or grpc address of a remote TPU; empty: the local one
    hosts: list[str] = field(default_factory=list)  # host:port of every host, this one is `host_index`
    host_index: int = 0  # of this host in `hosts`, from 0
    replicas: int = key(0, least=0)  # GPUs, 0: all; logical CPU devices, 0: one
    # auto: bfloat16 where the hardware has it
    precision: str = key("auto", one_of=("auto", "float32", "mixed_bfloat16"))
    rehearse: int = key(0, least=0)  # N: a few steps of every phase on N logical CPU replicas under XLA, narrowed
    rehearse_steps: int = key(5, least=1)  # of each phase, in a rehearsal
    rehearse_whole: bool = False  # the network and the batches as they are


@dataclass(frozen=True)
class Export:
    """The section `export`: the files that a checkpoint is written as."""

    # submission.zip is of saved_model; all stand below export/
    formats: list[str] = key(["saved_model"], one_of=("saved_model", "torchscript", "onnx", "litert"))
    flip_average: bool = False  # the mean of an image's embedding and its mirror image's
    crops: int = key(1, least=1, most=6)  # the whole, the centre, the corners

    def rules(self) -> Iterator[tuple[str, str]]:
        if set(self.formats) - {"saved_model"} and (self.flip_average or self.crops > 1):
            yield "formats", "flip_average and crops are for saved_model only; drop the other formats"


@dataclass(frozen=True)
class Score:
    """The section `score`: what the export is scored on, and beside what."""

    index: list[str] = key(["{run_dir}/records/*-test-*.tfrec"], urls=True)  # DATA, as `guie score`
    queries: list[str] = key([], urls=True)  # empty: leave-one-out over the index
    # embeddings scored beside it
    references: list[str] = key(["raw_pixels", "untrained", "raw_features"], one_of=REFERENCES)
    batch_size: int = key(64, least=1)  # images embedded together


@dataclass(frozen=True)
class Submit:
    """The section `submit`: names on Kaggle, and what is uploaded."""

    competition: str = "google-universal-image-embedding"  # slug on Kaggle
    user: str = ""  # your name on Kaggle; empty: KAGGLE_USERNAME, else who the kaggle client signs in as
    dataset: str = ""  # owner/slug of the dataset that is uploaded; empty: <user>/guie-<run's name>-data
    kernel: str = ""  # owner/slug of the notebook that is pushed; empty: <user>/guie-<run's name>-submit
    message: str = key("", urls=True)  # of the submission; empty: the run's name
    home: str = key("", urls=True)  # https address of your repository, that the notebooks link to; empty: none
    encoder_model: str = ""  # owner/model/framework/variation/version: attach it and upload the head alone
    records_datasets: list[str] = field(default_factory=list)  # owner/slug of shards, for the training notebook
    # Kaggle's images whose missing packages the datasets carry, tpu (400 MB; training alone) and gpu, which is the
    # CPU's as well; [] carries the project's own wheel alone.
    images: list[str] = key(["tpu", "gpu"], one_of=("tpu", "gpu"))
    extra_wheels: list[str] = field(default_factory=list)  # further ones, as pip names them, or paths
    poll_seconds: float = key(30.0, least=0)  # between two questions for the status
    timeout_hours: float = 12.0  # limit of each wait


@dataclass(frozen=True)
class Sweep:
    """What `guie sweep` tries, and on which folds of train.records it selects."""

    trials: int = key(20, least=1)  # recipes that are tried, the config's own first
    class_folds: int = key(3, least=0)  # each class fold is left out in turn; 0: none
    domains: list[str] = field(default_factory=list)  # left out in turn; empty: every source
    folds: list[str] = field(default_factory=list)  # as train.fold, instead of those: classes 1/3 + domain cars
    seeds: list[int] = key([0], least=0)  # each fold is trained with each; scores are means
    space: dict[str, Any] = key({}, urls=True)  # config key: a list, or {low:, high:, log: true}


@dataclass(frozen=True)
class Run:
    """A whole run: what `guie run CONFIG` reads."""

    name: str = ""  # empty: the config file's name
    run_dir: str = ""  # empty: runs/<name>
    data_root: str = "${oc.env:GUIE_DATA,''}"  # folder that relative data paths start from
    records: Records = field(default_factory=Records)
    encoder: Encoder = field(default_factory=Encoder)
    embedder: Embedder = field(default_factory=Embedder)
    train: Train = field(default_factory=Train)
    devices: Devices = field(default_factory=Devices)
    export: Export = field(default_factory=Export)
    score: Score = field(default_factory=Score)
    submit: Submit = field(default_factory=Submit)
    sweep: Sweep = field(default_factory=Sweep)
    seeds: list[int] = key([], least=0)  # `guie run` trains each in <run_dir>/seed-N; empty: train.seed alone

    def in_run_dir(self, patterns: list[str]) -> list[str]:
        """Globs or DATA of the config with `{run_dir}` replaced: the one place that does it.

        Before a glob the run folder's own `[`, `*` and `?` are escaped: they mean themselves.
        """
        return [
            pattern.replace("{run_dir}", glob.escape(self.run_dir) if glob.has_magic(pattern) else self.run_dir)
            for pattern in patterns
        ]

    @property
    def scored_data(self) -> tuple[list[str], list[str]]:
        """DATA of the index and of the queries, `{run_dir}` replaced; no queries in leave-one-out."""
        return self.in_run_dir(self.score.index), self.in_run_dir(self.score.queries)


@dataclass(frozen=True)
class ImageTextModel:
    """A CLIP or SigLIP with both towers; an entry of `models` or the section `model` of a config."""

    encoder: Encoder = field(default_factory=Encoder)  # its weights are the text tower's too
    vocabulary: str = ""  # file or preset's folder; "": the preset's or, for CLIP, open_clip's
    text_architecture: dict[str, Any] = field(default_factory=dict)  # replaces the catalogue's dimensions
    label: str = ""  # in tables; "": the encoder's name
    seed: int = 0  # of random weights

    @property
    def title(self) -> str:
        return shown(self.label or self.encoder.name)
