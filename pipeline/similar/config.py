"""The keys of `guie similar … CONFIG`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.config import Encoder, ImageSource, key

CLASS_MEANS = "class_means"
MAP_AT = (1, 3, 5)  # the ranks of mAP


@dataclass(frozen=True)
class TrainingSet:
    """One of the sets that are trained on in turn; each goes on from where the one before ended."""

    name: str = ""  # in the log and metrics.json
    train: list[ImageSource] = field(default_factory=list)
    validation: list[ImageSource] = field(default_factory=list)  # mAP@k, every image against all others
    epochs: int = 5  # passes over the set


@dataclass(frozen=True)
class Triplets:
    """The section `triplets`."""

    sets: list[TrainingSet] = field(default_factory=list)
    # Head: the encoder is frozen, its features computed once
    trainable: str = key("head", one_of=("head", "all"))
    margin: float = key(0.2, above=0)  # by which the positive must be nearer than the negative
    mining: str = key("semihard", one_of=("semihard", "hard"))  # which negative of the batch counts
    classes_a_batch: int = key(16, least=2)  # P of P classes × K images
    images_a_class: int = key(4, least=2)  # K of P classes × K images
    learning_rate: float = 1e-3  # of Adam, constant

    def rules(self) -> Iterator[tuple[str, str]]:
        if any(not each.train or not each.validation for each in self.sets):
            yield "sets", "expected train and validation sources in each"
        if len({each.name for each in self.sets}) < len(self.sets) or not all(each.name for each in self.sets):
            yield "sets", "every set needs a name that no other has"


@dataclass(frozen=True)
class Classifier:
    """The section `classifier`."""

    # Of the index's classes; or keras_hub:<preset or folder>, keras_file:<path>
    name: str = key(CLASS_MEANS, urls=True)
    labels: str = ""  # label map: CSV index,name; or a class a line, in order (LOC_synset_mapping.txt)
    top_classes: int = key(1, least=1)  # neighbours may come from this many likeliest classes
    mean: list[float] | None = None  # of a keras_file, as of an encoder
    std: list[float] | None = None  # of the same pixels
    image_size_px: int | None = None  # side of its square; None: the model's own


@dataclass(frozen=True)
class Crop:
    """The section `crop`."""

    # KerasHub's preset (dfine_small_coco, retinanet_resnet50_fpn_coco, …) or its folder
    detector: str = key("", urls=True)
    # 0: tight; 0.1: a tenth of the box's width and height is added at every side
    padding: float = key(0.0, least=0)
    min_score: float = 0.3  # boxes that are less certain are ignored
    centre_share: float = key(0.5, above=0, most=1)  # a box counts if its middle lies in this middle share
    image_size_px: int = key(640, least=32)  # side of the square the detector sees


@dataclass(frozen=True)
class Similar:
    """Similar images: what `guie similar … CONFIG` reads."""

    name: str = ""  # empty: the config file's name
    run_dir: str = ""  # empty: runs/<name>
    data_root: str = "${oc.env:GUIE_DATA,''}"  # folder that relative data paths start from
    encoder: Encoder = field(default_factory=Encoder)
    embedding_dim: int = key(64, least=1)  # of the head that is trained
    seed: int = 0  # of random weights and batches
    triplets: Triplets = field(default_factory=Triplets)
    # what is searched: the trained embedder, the encoder's features, or those of likely classes
    method: str = key("features", one_of=("embedder", "features", "classify"))
    classifier: Classifier = field(default_factory=Classifier)
    crop: Crop = field(default_factory=Crop)
    index: list[ImageSource] = field(default_factory=list)  # images that are searched
    queries: list[ImageSource] = field(default_factory=list)  # empty: every index image queries all others
    neighbours: int = key(5, least=1)  # shown for each query
    pictures: int = 40  # queries that get a picture
    batch_size: int = key(32, least=1)  # images embedded together
