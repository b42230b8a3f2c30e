"""The keys of `train`: phases, losses, the optimizer, what a batch holds; each with its default and its range."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from pipeline.config.keys import key

# The names of training.losses.LOSSES.
PAIR_LOSSES = ("multi_similarity", "supcon", "triplet")  # they compare a batch's images, not images and centres
LOSSES = ("arcface", "cosface", "normface", "proxy_nca", *PAIR_LOSSES)
STARTS = ("random", "pca", "half_whitened", "lda")  # of the head, see training.starts
DOMAINS = ("size", "sqrt", "equal", "round_robin", "losses")  # how sources share the batches, see data.sampler


@dataclass(frozen=True)
class Loss:
    """The section `train.loss`: which loss, over class centres or over a batch's pairs."""

    name: str = key("arcface", one_of=LOSSES)  # the first four compare images and class centres, the others images
    scale: float = key(30.0, above=0)  # inverse temperature s of the softmax
    margin_radians: float = 0.3  # arcface's additive angular margin m
    margin_cosine: float = key(0.1, least=0, most=2)  # margin of cosface and triplet
    own_domain: bool = False  # separate classifiers: softmax over the classes of the own source; false: one joint one
    subcenters: int = key(1, least=1)  # centres a class; the nearest counts
    sharded: bool = False  # class centres split over the replicas: pays from some 100,000 classes on
    largest_margin_radians: float | None = None  # dynamic margin: the smallest class's; margin_radians the largest's

    def rules(self) -> Iterator[tuple[str, str]]:
        if self.sharded and (self.name != "arcface" or self.own_domain):
            came = "own_domain" if self.name == "arcface" else self.name
            yield "sharded", f"expected arcface over all classes, got {came}; drop sharded or {came}"
        if self.own_domain and self.name in PAIR_LOSSES:
            yield "own_domain", f"{self.name} has no softmax over classes; drop own_domain or choose a class loss"
        if self.largest_margin_radians is not None and self.name != "arcface":
            yield "largest_margin_radians", f"{self.name} has no margin in radians; drop the key or choose arcface"


@dataclass(frozen=True)
class Teachers:
    """The section `train.teachers`: UDON's online teachers, a head and a classifier for each source.

    They are trained beside the embedder's head, their student, and stand in checkpoints, never in the export.
    """

    dim: int | None = key(None, least=1)  # numbers of a teacher's embedding, the paper's are 256; None: no teachers
    logits: float = key(1.0, least=0)  # factor of the student's divergence from the teacher's logits
    similarities: float = key(1.0, least=0)  # factor of their squared difference in the batch's similarities
    temperature: float = key(0.1, above=0)  # of the logits that are compared, cosines on both sides
    # whether these two terms train the encoder, too: in the paper they end at the student's head, so that the encoder
    # learns from labels alone, which is kept here; the released code lets them through
    through_encoder: bool = False


@dataclass(frozen=True)
class Optimizer:
    """The section `train.optimizer`."""

    name: str = key("adamw", one_of=("adam", "adamw", "sgd", "adafactor"))  # weight decay is decoupled for all
    weight_decay: float = 1e-4  # times the learning rate, a step; no biases or scales
    momentum: float = key(0.9, least=0, most=1)  # of sgd
    clip_norm: float | None = key(None, above=0)  # most that the norm of all gradients may be; None: not clipped
    accumulate_steps: int = key(1, least=1)  # pieces that a batch is computed in, for less memory
    ema: float | None = key(None, least=0, most=0.9999999)  # decay of the averaged weights, which are exported
    moments: str = key("float32", one_of=("float32", "bfloat16"))  # of adam's and adamw's first moment, sgd's momentum

    def rules(self) -> Iterator[tuple[str, str]]:
        if self.moments != "float32" and (self.name == "adafactor" or (self.name == "sgd" and not self.momentum)):
            came = "adafactor" if self.name == "adafactor" else "sgd without momentum"
            yield "moments", f"{came} keeps no first moment; drop moments, or choose adamw, adam or sgd with momentum"


@dataclass(frozen=True)
class Augment:
    """How a phase's images are varied at random."""

    flip: bool = False  # mirror half of the images
    crop_scale_min: float = key(1.0, above=0, most=1)  # random resized crop: smallest share of the area; 1.0 is none
    crop_aspect_max: float = key(1.33, least=1)  # of the crop: width / height lies between 1 / this and this
    color_jitter: float = key(0.0, least=0, most=1)  # strength of brightness, contrast, saturation, hue
    rand_augment: float = key(0.0, least=0, most=1)  # magnitude of RandAugment's two operations
    cutout: float = key(0.0, least=0, most=1)  # side of the cut square as a share of the image's


@dataclass(frozen=True)
class Sampling:
    """Which records a batch holds. By default every record is drawn once an epoch."""

    images_per_class: int | None = key(None, least=1)  # K of P classes × K images
    one_domain: bool = False  # every batch is of one source; a source's share is then of the batches
    # a source's share of the images grows as that; round_robin: a batch of each in turn, with one_domain; losses: as
    # its teacher's cross-entropy, see losses_every_steps
    domains: str = key("size", one_of=DOMAINS)
    domain_shares: dict[str, float] = key({}, least=0)  # source: share, or steps, of any sum; replaces `domains`
    losses_every_steps: int = key(1000, least=1)  # `losses` sets the shares so often; before, in turn (mixed: equal)
    cap_per_class: int | None = key(None, least=1)  # only so many images of a class, the same ones in each epoch
    interleave: int | None = key(None, least=1)  # shards read at a time, in blocks of neighbours; None: any record next

    def rules(self) -> Iterator[tuple[str, str]]:
        others = "images_per_class, one_domain, domains and domain_shares"
        if self.interleave and (
            self.images_per_class or self.one_domain or self.domains != "size" or self.domain_shares
        ):
            yield "interleave", f"it draws every record once an epoch: leave it out, or {others}"
        if self.domains == "round_robin" and not self.one_domain:
            yield "domains", "round_robin takes a batch of each source in turn: set one_domain=true, or domains=equal"
        if self.domain_shares and self.domains in ("round_robin", "losses"):
            yield "domain_shares", f"they would replace domains={self.domains}: leave one of the two out"
        if self.domain_shares and not any(self.domain_shares.values()):
            yield "domain_shares", "expected a share above 0, all are 0"


@dataclass(frozen=True)
class Keep:
    """Terms that keep what the encoder knew where the run started; each is a factor beside the loss, 0: none."""

    features: float = key(0.0, least=0)  # distance to that encoder's feature of the uncropped image
    similarities: float = key(0.0, least=0)  # between the images of a replica's share, as that encoder has them
    weights: float = key(0.0, least=0)  # squared distance of the encoder's weights to those
    temperature: float = key(0.1, above=0)  # of the softmax that `similarities` compares
    sizes_px: list[int] = key([], least=1)  # that encoder's features are averaged over these; empty: as the embedder's


@dataclass(frozen=True)
class Phase:
    """One stretch of training. A phase whose encoder is frozen and unaugmented runs on features computed once."""

    name: str = MISSING  # its name in metrics.jsonl and the report
    trainable: str = "head"  # head | encoder | all | last N blocks | last N % (of the depth)
    init: str | None = key(None, one_of=STARTS)  # the head and the centres start anew; None: they go on
    loss: Loss | None = None  # None: train.loss
    epochs: float = key(1.0, above=0)  # passes over the records
    batch_size: int = key(128, least=1)  # global, over all replicas
    learning_rate: float = key(1e-3, least=0)  # the highest, after warm-up; the head's
    end_learning_rate: float = key(0.0, least=0)  # at the last step, by cosine
    warmup_epochs: float = key(0.0, least=0)  # over which the rate rises linearly from 0
    encoder_rate_factor: float = key(1.0, least=0)  # the encoder's learning rate as a share of the head's
    centers_rate_factor: float = key(1.0, least=0)  # the class centres' likewise
    average_from: float | None = key(None, least=0, most=1)  # weights are averaged from this share of the steps on
    interpolation: float = key(1.0, least=0, most=1)  # WiSE: 1: the tuned encoder; 0: the one the run started from
    head_interpolation: float = key(1.0, least=0, most=1)  # 1: the tuned head; 0: as the phase started it
    layer_decay: float = key(1.0, least=0)  # factor of the learning rate for each block further from the output
    margin_radians: float | None = None  # at the start of the phase; None: loss.margin_radians
    end_margin_radians: float | None = None  # None: the margin stays
    image_size_px: int | None = key(None, least=1)  # None: encoder.image_size_px
    patch_overlap_px: int | None = None  # None: encoder.patch_overlap_px
    min_images_per_class: int = 0  # classes with fewer are drawn more often
    augment: Augment = field(default_factory=Augment)
    sampling: Sampling = field(default_factory=Sampling)
    keep: Keep = field(default_factory=Keep)


@dataclass(frozen=True)
class Train:
    """The section `train`: phases one after another, and what they share."""

    phases: list[Phase] = field(default_factory=list)  # in turn; each goes on from where the one before ended
    loss: Loss = field(default_factory=Loss)
    teachers: Teachers = field(default_factory=Teachers)
    optimizer: Optimizer = field(default_factory=Optimizer)
    seed: int = key(0, least=0, most=2**31 - 1)  # of weights, batches and augmentation
    compile: bool = False  # XLA (always on a TPU)
    log_every_steps: int = key(20, least=1)  # a line of metrics.jsonl every so many steps
    checkpoint_every_steps: int = key(500, least=1)  # a checkpoint every so many steps
    checkpoints_kept: int = key(2, least=1)  # the newest ones; older ones are removed
    hours: float | None = key(None, above=0)  # training ends with a checkpoint before so many are over; None: when done
    validate_every_epochs: float = key(1.0, above=0)  # mP@5 on `validation`; also at the end of a phase
    init_from: str = ""  # a checkpoint of another run
    features_dir: str = "{run_dir}/features"  # frozen encoders' features; runs may share it
    fold: str = ""  # held out of `records` and validated on: `classes I/N`, `domain NAME` or both joined by ` + `
    records: list[str] = key(["{run_dir}/records/*-train-*.tfrec"], urls=True)  # globs of shards
    validation: list[str] = key(["{run_dir}/records/*-validation-*.tfrec"], urls=True)  # globs of shards

    def rules(self) -> Iterator[tuple[str, str]]:
        names = {self.loss.name, *(phase.loss.name for phase in self.phases if phase.loss)}
        if self.optimizer.accumulate_steps > 1 and (paired := sorted(names.intersection(PAIR_LOSSES))):
            why = f"{paired[0]} compares all images of a batch, which pieces of it do not see: use accumulate_steps 1"
            yield "optimizer.accumulate_steps", why
        if self.teachers.dim is None:
            by_losses = [f"phases.{n}" for n, each in enumerate(self.phases) if each.sampling.domains == "losses"]
            if by_losses:
                why = "the losses are the teachers', and there are none: set train.teachers.dim (256 in the paper)"
                yield f"{by_losses[0]}.sampling.domains", why
            return
        if not all((phase.loss or self.loss).own_domain for phase in self.phases):
            yield "teachers.dim", "a teacher knows the classes of its own source alone: set loss.own_domain=true"
        if self.optimizer.accumulate_steps > 1 and self.teachers.similarities:
            why = "teachers.similarities compares all images of a batch, which its pieces do not see: use 1, or 0 there"
            yield "optimizer.accumulate_steps", why
