"""ILIAS, GLDv2 retrieval, the Met, RP2K, Food2K, iNaturalist 2018, open-metric-learning's CSV."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.drawn_benchmarks.pictures import picture, write
from tfrecords.listing.unzipped import escaped


def draw_ilias(
    folder: Path,
    objects: int = 4,
    positives: int = 3,
    tars: int = 2,
    distractors: int = 5,
    mini: Sequence[int] = (0, 2),
) -> Path:
    """Objects with two queries (the last: one) and `positives` each, tars of `distractors` JPEGs, `checksums.txt`.

    Of each tar the distractors numbered `mini` are mini-ILIAS's. The last object has no positive.
    """
    files: dict[str, bytes | str] = {}
    queries, found, texts, chosen = [], [], [], []
    for number in range(objects):
        name = f"object_{'abcdefghij'[number % 10]}_{number:03d}"
        texts.append(f"{name}/query/T{number:03d}.txt")
        files[f"ilias_core/{texts[-1]}"] = f"object number {number}"
        for image in range(1 if number == objects - 1 else 2):
            queries.append(f"{name}/query/Q{number:03d}_{image:02d}.jpg")
        for image in range(0 if number == objects - 1 else positives):
            found.append(f"{name}/pos/P{number:03d}_{image:02d}.jpg")
    for path in [*queries, *found]:
        files[f"ilias_core/{path}"] = picture(f"ilias {path.split('/')[0]}", path, (60, 30))
        files[f"ilias_core/{path.removesuffix('.jpg')}_bbox.txt"] = "4 6 20 10\n30 10 12 8\n"
    sums = []
    for tar in range(tars):
        members = {}
        for image in range(distractors):
            key = hashlib.md5(f"{tar} {image}".encode()).hexdigest()
            members[f"{key}.jpg"], members[f"{key}.json"] = picture(f"distractor {key}", key, (50, 40)), b"{}"
            chosen += [key] * (image in mini)
        data = _tar(members)
        files[f"yfcc100m/yfcc100m_{tar:05d}.tar"] = data
        sums.append(f"{hashlib.sha256(data).hexdigest()} https://example.org/yfcc100m/yfcc100m_{tar:05d}.tar")
    files |= {
        "image_ids/image_query_ids.txt": "".join(f"{path},0.9\n" for path in queries),
        "image_ids/positive_ids.txt": "".join(f"{path},0.{row + 1},{row * 20}\n" for row, path in enumerate(found)),
        "image_ids/text_query_ids.txt": "".join(f"{path}\n" for path in texts),
        "image_ids/mini_ilias_yfcc100m_ids.txt": "".join(f"{key}\n" for key in chosen),
        "checksums.txt": "\n".join(sums) + "\n",
    }
    return write(folder, files)


def draw_gldv2(folder: Path, packed: bool = False) -> Path:
    """Four queries that count (private and public), one ignored, an index of ten.

    Queries 0 and 1 share the index image 2; query 3 names an image that the index lacks; images 6 … 9 answer none.
    `packed`: the images of the index lie in a tar.
    """
    query, image = ([f"{kind}{number}0123456789abc"[:16] for number in range(10)] for kind in ("q", "a"))
    answers = {0: [0, 1, 2], 1: [2, 3], 2: [4, 5], 3: []}
    rows = ["id,images,Usage"]
    for number, found in answers.items():
        images = [image[each] for each in found] or ["gone0123456789ab"]
        rows.append(f"{query[number]},{' '.join(images)},{'Private' if number % 2 else 'Public'}")
    rows.append(f"{query[4]},None,Ignored")
    of_image = {each: number for number, found in reversed(answers.items()) for each in found}
    index = {
        f"{each[0]}/{each[1]}/{each[2]}/{each}.jpg": picture(f"gldv2 {of_image.get(number, 'none')}", each)
        for number, each in enumerate(image)
    }
    files: dict[str, bytes | str] = {
        f"test/{each[0]}/{each[1]}/{each[2]}/{each}.jpg": picture(f"gldv2 {number}", each)
        for number, each in enumerate(query[:5])
    }
    files |= (
        {"index/images_000.tar": _tar(index)} if packed else {f"index/{name}": data for name, data in index.items()}
    )
    files["retrieval_solution_v2.1.csv"] = "\n".join(rows) + "\n"
    files["index.csv"] = "\n".join(["id", *image]) + "\n"
    return write(folder, files)


def draw_met(folder: Path, exhibits: int = 5) -> Path:
    """Exhibits of one to three images, a query of every second one in test, of the others in val; two distractors each.

    Their ids are those of the museum: neither from 0 nor without gaps.
    """
    ids = [100 + 7 * number for number in range(exhibits)]
    train = [(f"MET/{label}/{image}.jpg", label) for label in ids for image in range(1 + label % 3)]
    sets = {
        name: [(f"test_met/{name}{label}.jpg", label) for label in ids[at::2]]
        for at, name in enumerate(("test", "val"))
    }
    files: dict[str, bytes | str] = {
        f"images/{path}": picture(f"met {label}", path) for path, label in [*train, *sets["test"], *sets["val"]]
    }
    lists: dict[str, list[dict]] = {
        "MET_database": [{"id": label, "path": path} for path, label in train],
        "mini_MET_database": [{"id": label, "path": path} for path, label in train if label < ids[2]],
    }
    for name, rows in sets.items():
        odd = [f"{place}/{name}.jpg" for place in ("test_other", "test_noart")]
        files |= {f"images/{path}": picture(path, path) for path in odd}
        lists[f"{name}set"] = [{"path": path, "MET_id": label} for path, label in rows] + [
            {"path": path} for path in odd
        ]
    files |= {f"ground_truth/{name}.json": json.dumps(rows) for name, rows in lists.items()}
    return write(folder, files)


def draw_rp2k(folder: Path, classes: int = 3, images: int = 2, escape: bool = True) -> Path:
    """`all/train/` and `all/test/` with folders of Chinese names; `escape`: as unzip writes them."""
    paths = [
        f"all/{split}/可口可乐{label}/{image}.jpg"
        for split in ("train", "test")
        for label in range(classes)
        for image in range(images)
    ]
    return write(folder, {escaped(path) if escape else path: picture(path.split("/")[2], path) for path in paths})


def draw_food2k(folder: Path, classes: int = 3, images: int = 5) -> Path:
    """`Food2k_complete/<class>/<image>.jpg`, of each class three in train, one in val, the others in test."""
    files: dict[str, bytes | str] = {}
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label in range(classes):
        for image in range(images):
            path = f"{label}/{image}.jpg"
            files[f"Food2k_complete/{path}"] = picture(f"food2k {label}", path)
            lines["train" if image < 3 else "val" if image == 3 else "test"].append(f"{path} {label}")
    return write(
        folder, {**files, **{f"Food2k_label/{name}_finetune.txt": "\n".join(each) for name, each in lines.items()}}
    )


def draw_inat2018(folder: Path, classes: int = 4, images: int = 3) -> Path:
    """`train2018.json` (all but the last image of a class), `val2018.json`, class-disjoint lists, `categories.json`."""
    files: dict[str, bytes | str] = {}
    coco: dict[str, dict[str, list]] = {name: {"images": [], "annotations": []} for name in ("train2018", "val2018")}
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for category in range(classes):
        for image in range(images):
            path = f"train_val2018/Aves/{2000 + category}/{category}{image}.jpg"
            files[path] = picture(f"inat {category}", path)
            rows = coco["val2018" if image == images - 1 else "train2018"]
            rows["images"].append({"id": len(files), "file_name": path, "width": 48, "height": 40, "license": 3})
            rows["annotations"].append({"id": len(files), "image_id": len(files), "category_id": 2000 + category})
            lists["train" if category < classes // 2 else "test"].append(path)
    for name, rows in coco.items():
        whole = {"info": {"year": 2018}, **rows, "licenses": [{"id": 3, "name": "CC"}], "categories": []}
        files[f"{name}.json"] = json.dumps(whole)
    names = [{"id": 2000 + category, "name": f"Avis {category}", "kingdom": "Animalia"} for category in range(classes)]
    files["categories.json"] = json.dumps(names)
    return write(
        folder,
        {
            **files,
            **{f"Inat_dataset_splits/Inaturalist_{name}_set1.txt": "\n".join(each) for name, each in lists.items()},
        },
    )


def draw_oml(folder: Path, classes: int = 4, images: int = 3) -> Path:
    """`df.csv` as pandas writes it: half of the classes in train; of the others a query, one of the gallery, then both.

    The path of the last row is absolute.
    """
    files: dict[str, bytes | str] = {}
    rows = ["label,path,split,is_query,is_gallery,category"]
    for label in range(classes):
        for image in range(images):
            path = f"images/{label}_{image}.jpg"
            files[path] = picture(f"oml {label}", path)
            flags = f"validation,{image != 1},{image != 0}" if label >= classes // 2 else "train,,"
            rows.append(f"{label},{path},{flags},things")
    rows[-1] = rows[-1].replace("images/", f"{folder.absolute()}/images/")
    return write(folder, {**files, "df.csv": "\n".join(rows) + "\n"})


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
