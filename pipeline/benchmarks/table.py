"""The benchmarks that `guie bench` knows: layout, parts, protocol, pixels. No TensorFlow, no NumPy.

A benchmark is added here: a line of BENCHMARKS, and a module of `protocols/` where none does what its paper does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import BadInput, nearest

UNED_DOMAINS = ("cars", "sop", "inshop", "inat", "met", "gldv2", "food2k", "rp2k")  # in the order of their numbers
# The split that the queries of a domain search in; the others search in their own.
UNED_INDEX = {"inshop": "index", "met": "index", "gldv2": "index"}


@dataclass(frozen=True)
class Part:
    """Images that are embedded together, in the order of their listing."""

    name: str  # of its vectors' folder
    options: Mapping[str, Any] = field(default_factory=dict)  # of the layout
    domain: str = ""
    queries: bool = True  # whether its images ask, and whether they are found
    index: bool = True


@dataclass(frozen=True)
class Benchmark:
    """What is known of a benchmark before anything is read."""

    name: str  # as the command has it
    title: str  # as papers have it
    protocol: str  # module of `protocols/`
    rule: str  # the protocol in a sentence
    headline: str  # the measure of the last line
    parts: tuple[Part, ...]
    layout: str = ""  # of tfrecords.sources; "": as the name
    caveat: str = ""  # what is to be known of every score
    # How raw features see an image: "own", as the encoder was trained; "uned", see pixels.uned; "aspect", whole.
    pixels: str = "own"
    image_size_px: int | None = None  # None: the encoder's own
    dtype: str = "float32"  # of the vectors on disk

    def of_domains(self, domains: Sequence[str]) -> tuple[Part, ...]:
        """The parts of some domains, all without any. Raises BadInput: a domain that the benchmark does not have."""
        known = list(dict.fromkeys(part.domain for part in self.parts if part.domain))
        for domain in domains:
            if domain not in known:
                raise BadInput(f"--domain {domain}: {self.name} has {nearest(domain, known)}")
        return tuple(part for part in self.parts if not domains or part.domain in domains)


def _uned() -> tuple[Part, ...]:
    parts = []
    for domain in UNED_DOMAINS:
        index = UNED_INDEX.get(domain)
        parts.append(Part(f"{domain}-test", {"domain": domain, "split": "test"}, domain, True, index is None))
        if index:
            parts.append(Part(f"{domain}-{index}", {"domain": domain, "split": index}, domain, False, True))
    return tuple(parts)


def _test(split: str = "test") -> tuple[Part, ...]:
    """One split, each image of which asks for all others."""
    return (Part(split, {"split": split}),)


def _two(queries: str, index: str) -> tuple[Part, ...]:
    return (Part(queries, {"split": queries}, "", True, False), Part(index, {"split": index}, "", False, True))


MAP_AT_R = "R@1 and MAP@R of the test images; a query does not find itself, one without a match is left out"
SHARED = "the published split has the same classes in training and test; class-disjoint ones are UnED's"

BENCHMARKS: dict[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark(
            "uned", "UnED", "uned",
            "each domain's queries against the index of all domains; a hit has the query's domain and label",
            "mMP@5", _uned(), pixels="uned", image_size_px=224,
        ),
        Benchmark(
            "ilias", "ILIAS", "ilias", "mAP@1k of whole images against positives and distractors", "mAP@1k",
            _two("image_queries", "positives"), pixels="aspect", dtype="float16",
        ),
        Benchmark(
            "gpr1200", "GPR1200", "gpr1200", "mAP over the whole ranking of all 12,000 images", "mAP", (Part("all"),),
        ),
        Benchmark("sop", "Stanford Online Products", "metric_learning", MAP_AT_R, "R@1", _test()),
        Benchmark("inshop", "DeepFashion In-Shop", "metric_learning", MAP_AT_R, "R@1", _two("query", "gallery")),
        Benchmark("cars196", "CARS196", "metric_learning", MAP_AT_R, "R@1", _test()),
        Benchmark(
            "cub200", "CUB-200-2011", "metric_learning", MAP_AT_R, "R@1", _test(), layout="cub200_retrieval"
        ),
        Benchmark(
            "gldv2_retrieval", "Google Landmarks v2 retrieval", "landmarks",
            "mAP@100 of the public and the private queries; ignored ones are left out", "mAP@100",
            (
                Part("public", {"split": "public"}, "", True, False),
                Part("private", {"split": "private"}, "", True, False),
                Part("index", {"split": "index"}, "", False, True),
            ),
        ),
        Benchmark(
            "met", "The Met", "met", "kNN classifier tuned on the validation queries: GAP, GAP-, ACC", "GAP",
            (
                Part("test", {"split": "test", "distractors": True}, "", True, False),
                Part("val", {"split": "val", "distractors": True}, "", True, False),
                Part("train", {"split": "train"}, "", False, True),
            ),
        ),
        Benchmark("rp2k", "RP2K", "metric_learning", MAP_AT_R, "R@1", _test(), caveat=SHARED),
        Benchmark("food2k", "Food2K", "metric_learning", MAP_AT_R, "R@1", _test(), caveat=SHARED),
        Benchmark("inat2018", "iNaturalist 2018", "metric_learning", MAP_AT_R, "R@1", _test()),
        Benchmark(
            "oml", "open-metric-learning CSV", "metric_learning", MAP_AT_R, "R@1", _two("query", "gallery"),
            caveat="boxes and sequences of the CSV are not applied",
        ),
    )
}  # fmt: skip
