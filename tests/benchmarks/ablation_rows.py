"""The rows of docs/ablation.md: a title and the keys that differ from the table's first row."""

from dataclasses import dataclass

Row = tuple[str, ...]  # title, KEY=VALUE …


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    said: str
    config: str
    keys: tuple[str, ...]  # of every row
    rows: tuple[Row, ...]


P = "train.phases.0."
HEAD = Table(
    "head",
    "The head, on frozen features",
    "Three folds of classes, whose queries are pooled (9,585), and five of sources, each of which counts the same:\n"
    "eight trainings a row, whose seconds are together, on features that all rows share.",
    "configs/real_images_head.yaml",
    (),
    (
        ("the recipe",),
        ("start: LDA, not trained on", P + "learning_rate=0", P + "head_interpolation=0"),
        ("start: LDA shrunk .95", "embedder.lda.shrinkage=0.95"),
        ("start: half-whitened PCA", P + "init=half_whitened"),
        ("start: PCA", P + "init=pca"),
        ("start: random", P + "init=random", P + "head_interpolation=1"),
        ("head: all the way to ArcFace", P + "head_interpolation=1"),
        ("head: as it starts, to 0.25", P + "head_interpolation=0.25"),
        ("margin 0", "train.loss.margin_radians=0"),
        ("margin 0.3", "train.loss.margin_radians=0.3"),
        ("batches: images, not classes", P + "sampling.images_per_class=null"),
        ("batches: 4 images a class", P + "sampling.images_per_class=4"),
        ("sources by size", P + "sampling.domains=size"),
        ("sources equal", P + "sampling.domains=equal"),
        ("2 epochs", P + "epochs=2", P + "warmup_epochs=0.6"),
        ("16 epochs", P + "epochs=16", P + "warmup_epochs=4.8"),
        ("the last weights, not averaged", P + "average_from=null"),
        ("160 px alone", "embedder.sizes_px=[160]"),
        ("224 px alone", "embedder.sizes_px=[224]"),
        ("160 and 256 px", "embedder.sizes_px=[160,256]"),
        ("160, 224 and 256 px", "embedder.sizes_px=[160,224,256]"),
        ("softmax over the own source", "train.loss.own_domain=true"),
        ("scale 32", "train.loss.scale=32"),
        ("cosine margin 0.1", "train.loss.name=cosface"),
        ("start: LDA shrunk .5", "embedder.lda.shrinkage=0.5"),
        ("20 images a class", P + "sampling.cap_per_class=20"),
        ("no margin, NormFace", "train.loss.name=normface"),
        ("multi-similarity", "train.loss.name=multi_similarity"),
        ("SupCon", "train.loss.name=supcon"),
        ("proxy-NCA", "train.loss.name=proxy_nca"),
        ("triplets", "train.loss.name=triplet"),
        ("three centres a class", "train.loss.subcenters=3"),
        ("shorter side to the size, then the centre", "encoder.fit=crop"),
        (
            "start: LDA shrunk .95, not trained on",
            "embedder.lda.shrinkage=0.95",
            P + "learning_rate=0",
            P + "head_interpolation=0",
        ),
        ("start: LDA, total scatter alone", "embedder.lda.between=0"),
        ("start: LDA, half between", "embedder.lda.between=0.5"),
        ("head: to 0.75", P + "head_interpolation=0.75"),
        ("margin 0.3 for the smallest class, 0.1 for the largest", "train.loss.largest_margin_radians=0.3"),
        ("scale 8", "train.loss.scale=8"),
        ("batches: 16 images a class", P + "sampling.images_per_class=16"),
        ("batches of 128", P + "batch_size=128"),
        ("4 epochs", P + "epochs=4", P + "warmup_epochs=1.2"),
        ("32 epochs", P + "epochs=32", P + "warmup_epochs=9.6"),
        ("a tenth of the rate", P + "learning_rate=3.0e-4"),
        ("centres at the head's rate", P + "centers_rate_factor=1"),
        ("weight decay 1e-2", "train.optimizer.weight_decay=1.0e-2"),
        ("dropout 0.2", "embedder.dropout=0.2"),
        ("160, 192 and 224 px", "embedder.sizes_px=[160,192,224]"),
        ("longer side to the size, then grey bars", "encoder.fit=pad"),
    ),
)

FOLDS = 'sweep.folds=["classes 1/3 + domain products10k"]'
SHORT = ("embedder.sizes_px=[160]", P + "epochs=2", P + "warmup_epochs=0.2", P + "average_from=null", FOLDS)
FOUR = (P + "epochs=4", P + "warmup_epochs=0.4", P + "average_from=0.5")
ENCODER = Table(
    "encoder",
    "The encoder, fine-tuned under a softmax over the own source",
    "One training a row: without a third of the classes of four sources (2,804 queries) and without products10k\n"
    "(1,416). Two epochs instead of four, not averaged, served at 160 px alone, so that a row takes minutes.",
    "configs/real_images_all.yaml",
    (*SHORT, P + "loss.own_domain=true"),
    (
        ("two epochs, not averaged",),
        ("another seed", "sweep.seeds=[1]"),
        ("no fine-tuning", P + "learning_rate=0", P + "epochs=0.01"),
        ("one epoch", P + "epochs=1", P + "warmup_epochs=0.1"),
        ("four epochs", P + "epochs=4", P + "warmup_epochs=0.4"),
        ("keeps features, factor 5", P + "keep.features=5"),
        ("averaged over the last half", P + "average_from=0.5"),
        ("four epochs, averaged over the last half", *FOUR),
        ("WiSE: 0.7 of the way", P + "interpolation=0.7"),
        ("one size from two", P + "keep.sizes_px=[160,224]"),
        ("all of the encoder", P + "trainable=all"),
        ("averaged over the last half, at an even rate", P + "average_from=0.5", P + "end_learning_rate=1.2e-3"),
        ("keeps nothing", P + "keep.features=0"),
        ("the last 30 %", P + "trainable=last 30 %"),
        ("keeps similarities, too", P + "keep.similarities=1.5"),
        ("keeps weights instead", P + "keep={features: 0, weights: 0.1}"),
        ("softmax over all classes", P + "loss.own_domain=false"),
        ("twice the rate", P + "learning_rate=2.4e-3"),
        ("sources by size", P + "sampling.domains=size"),
        ("no crops", P + "augment.crop_scale_min=1.0"),
        ("colour, too", P + "augment.color_jitter=0.3"),
        ("4 images a class", P + "sampling.images_per_class=4"),
        ("half the rate", P + "learning_rate=6.0e-4"),
        (
            "all of it, four epochs, averaged at an even rate",
            P + "trainable=all",
            *FOUR,
            P + "end_learning_rate=1.2e-3",
        ),
    ),
)

ALL_CLASSES = Table(
    "all_classes",
    "The encoder, fine-tuned under a softmax over all classes",
    "As above, but for the softmax: the recipe's.",
    "configs/real_images_all.yaml",
    SHORT,
    (
        ("two epochs, not averaged",),
        ("all of the encoder", P + "trainable=all"),
        ("four epochs, averaged over the last half", *FOUR),
        ("keeps features, factor 3", P + "keep.features=3"),
        ("cosine margin 0.2", P + "loss.margin_cosine=0.2"),
        ("twice the rate", P + "learning_rate=2.4e-3"),
        ("no crops", P + "augment.crop_scale_min=1.0"),
        ("sources by size", P + "sampling.domains=size"),
        ("scale 32", P + "loss.scale=32"),
        ("4 images a class", P + "sampling.images_per_class=4"),
        ("scale 10", P + "loss.scale=10"),
        ("one size from two", P + "keep.sizes_px=[160,224]"),
        ("another seed", "sweep.seeds=[1]"),
    ),
)

IN_TURN = (P + "sampling.domains=round_robin",)
SEPARATE = (*IN_TURN, "train.teachers.dim=null")
JOINT = (*SEPARATE, "train.loss.own_domain=false")
MIXED = (P + "sampling.one_domain=false",)
ARCFACE = ("train.teachers.dim=null", "train.loss.own_domain=false", "train.loss.name=arcface")
ARCFACE += ("train.loss.margin_radians=0.1", P + "sampling.domains=sqrt", *MIXED)
RANDOM = "embedder.init=random"
MANY_DOMAINS = Table(
    "many_domains",
    "Many domains: UDON beside joint and separate classifiers",
    "Three folds of classes, whose queries are pooled (9,585), in one index of five sources. 64 numbers on frozen\n"
    "features at 224 px, from PCA, 5 epochs of batches of 128 at the same rate, where a row says nothing else.\n"
    "The encoder is frozen in all rows, where the paper trains it. From random UDON is ahead of separate classifiers\n"
    "by 0.012 ±0.003, from PCA it is behind them; joint ones are ahead of both. Its similarities, at the released\n"
    "scale, are what costs it most here.",
    "configs/real_images_udon.yaml",
    ('sweep.folds=["classes 1/3","classes 2/3","classes 3/3"]',),
    (
        ("UDON",),
        ("UDON, sources in turn", *IN_TURN),
        ("separate classifiers, sources in turn", *SEPARATE),
        ("one joint classifier, sources in turn", *JOINT),
        ("joint ArcFace, mixed batches", *ARCFACE),
        ("UDON, similarities as a mean over pairs: 4 / 128", "train.teachers.similarities=0.03125"),
        ("UDON, logits alone", "train.teachers.similarities=0"),
        ("UDON, similarities alone", "train.teachers.logits=0"),
        ("UDON, from random", RANDOM),
        ("separate classifiers, sources in turn, from random", RANDOM, *SEPARATE),
        ("joint ArcFace, mixed batches, from random", RANDOM, *ARCFACE),
        ("UDON, 20 epochs", P + "epochs=20"),
        ("joint ArcFace, mixed batches, 20 epochs", *ARCFACE, P + "epochs=20"),
        ("UDON, mixed batches", *MIXED),
    ),
)

TABLES = (HEAD, ENCODER, ALL_CLASSES, MANY_DOMAINS)
