"""The sets of metric learning, and GPR1200."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.drawn_benchmarks.pictures import picture, write


def draw_gpr1200(folder: Path, classes: int = 6, images: int = 3, start: int = 0) -> Path:
    """`<class>_<name>.jpg` of classes `start` … : numbers without zeros in front, so that names sort otherwise."""
    names = [(label, f"{label}_{image}_n.jpg") for label in range(start, start + classes) for image in range(images)]
    return write(folder, {name: picture(f"gpr {label}", name) for label, name in names})


def draw_sop(folder: Path, classes: int = 4, images: int = 3) -> Path:
    """`Ebay_train.txt` with classes 1 … , `Ebay_test.txt` with those behind; images in `chair_final/`."""
    files: dict[str, bytes | str] = {}
    for split, start in (("train", 1), ("test", 1 + classes)):
        lines = ["image_id class_id super_class_id path"]
        for label in range(start, start + classes):
            for image in range(images):
                path = f"chair_final/{label:012d}_{image}.JPG"
                files[path] = picture(f"sop {label}", path)
                lines.append(f"{len(files)} {label} 3 {path}")
        files[f"Ebay_{split}.txt"] = "\n".join(lines) + "\n"
    return write(folder, files)


def draw_inshop(folder: Path, classes: int = 4, images: int = 3) -> Path:
    """`Eval/list_eval_partition.txt`; items 1 … are trained on, those behind have one query each and a gallery."""
    rows, files = [], {}
    for item in range(1, 1 + 2 * classes):
        for image in range(images):
            status = "train" if item <= classes else "gallery" if image else "query"
            path = f"img/WOMEN/Dresses/id_{item:08d}/02_{image}_front.jpg"
            files[f"Img/{path}"] = picture(f"inshop {item}", path)
            rows.append(f"{path:<70} id_{item:08d}    {status}")
    text = "\n".join([str(len(rows)), "image_name item_id evaluation_status", *rows]) + "\n"
    return write(folder, {**files, "Eval/list_eval_partition.txt": text})


def draw_cars196(folder: Path, classes: tuple[int, ...] = (1, 2, 98, 99, 100, 196), images: int = 2) -> Path:
    """`cars_annos.mat`, MATLAB's struct array of 1 × N, and `car_ims/`; 196 names of classes."""
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    table = np.zeros((1, len(classes) * images), dtype=[(name, object) for name in fields])
    files = {}
    for number in range(table.shape[1]):
        label, path = classes[number % len(classes)], f"car_ims/{number + 1:06d}.jpg"
        files[path] = picture(f"cars {label}", path)
        small = [np.array([[value]], np.uint8) for value in (1, 2, 40, 30, label, number % 2)]
        table[0, number] = (np.array([path]), *small)
    names = np.array([[np.array([f"Maker Model {label} 2012"]) for label in range(1, 197)]], dtype=object)
    write(folder, files)
    savemat(folder / "cars_annos.mat", {"annotations": table, "class_names": names}, do_compression=True)
    return folder


def draw_cub200(folder: Path, classes: tuple[int, ...] = (1, 2, 100, 101, 200), images: int = 2) -> Path:
    """CUB-200-2011 with some of its 200 classes."""
    tables: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    files: dict[str, bytes | str] = {}
    for label in classes:
        for image in range(images):
            path = f"{label:03d}.Bird_{label}/Bird_{image}.jpg"
            files[f"images/{path}"] = picture(f"cub {label}", path)
            number = len(tables["images"]) + 1
            for name, value in zip(tables, (path, label, image % 2), strict=True):
                tables[name].append(f"{number} {value}")
    tables["classes"] = [f"{label} {label:03d}.Bird_{label}" for label in classes]
    return write(folder, {**files, **{f"{name}.txt": "\n".join(lines) + "\n" for name, lines in tables.items()}})
