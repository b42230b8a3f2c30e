"""Checks submissions against the competition's contract; imports numpy and one framework, and nothing of guie.

    python -I contract_probe.py FOLDER [FOLDER ...]       (started by `guie check`, in several environments)

Runs under Python 3.9 with TensorFlow 2.6.4 and under the current versions. Prints each finding as a line of JSON:
{"folder", "check", "ok", "detail"}; `ok` is null for a note or a measurement that the caller judges. The last one of
each folder is "embeddings", so that two environments can be compared. What the model itself prints goes to stderr.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

KEY, MAX_DIM = "embedding_norm", 64
SIZES = [(1, 1), (1, 37), (53, 2), (17, 31), (224, 224), (375, 500), (3000, 4000)]  # height, width
UNIT_TOLERANCE, REPEAT_TOLERANCE, BATCH_TOLERANCE = 1e-3, 1e-5, 1e-4


class Refused(Exception):
    """A check has failed; the message is the reason."""


def blocks(height, width, seed):
    """uint8 [height, width, 3]: 5 × 5 blocks of colour, the same under every version of numpy."""
    colours = np.random.RandomState(seed).randint(0, 256, (5, 5, 3)).astype(np.uint8)
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 5 // width
    return colours[rows][:, columns]


def extremes():
    """Name → uint8 [120, 160, 3]: images unlike any photograph, which a scorer may still send."""
    checker = (np.indices((120, 160)).sum(0) % 2 * 255).astype(np.uint8)
    red = np.zeros((120, 160, 3), np.uint8)
    red[..., 0] = 255
    return {
        "black": np.zeros((120, 160, 3), np.uint8),
        "white": np.full((120, 160, 3), 255, np.uint8),
        "grey": np.repeat(blocks(120, 160, 3)[..., :1], 3, axis=2),
        "checkerboard": np.repeat(checker[..., None], 3, axis=2),
        "pure red": red,
    }


def first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


class TensorFlowSubmission:
    """serving_default of a SavedModel: uint8 [B, H, W, 3] → {"embedding_norm": float32 [B, D]}."""

    batches = True
    single = False  # fixed to a batch of 1

    def __init__(self, folder):
        import tensorflow as tf

        self.tf, self.version = tf, "TensorFlow " + tf.__version__
        self.accelerated = bool(tf.config.list_physical_devices("GPU"))
        self.loaded = tf.saved_model.load(folder)  # kept: its variables are deleted with it

    def signature(self):
        """Checks the names, dtypes and shapes that the signature states; returns them as text."""
        signatures = self.loaded.signatures
        if "serving_default" not in signatures:
            raise Refused(f"no signature serving_default; it has {sorted(signatures) or 'none'}")
        self.function = signatures["serving_default"]
        inputs = self.function.structured_input_signature[1]
        if len(inputs) != 1:
            raise Refused(f"expected one input, serving_default takes {sorted(inputs)}")
        ((self.name, spec),) = inputs.items()
        if spec.dtype != self.tf.uint8:
            raise Refused(f"expected a uint8 input, {self.name} is {spec.dtype.name}")
        shape = spec.shape.as_list() if spec.shape.rank is not None else None
        if shape is not None and (len(shape) != 4 or shape[3] not in (3, None)):
            raise Refused(f"expected an input [B, H, W, 3], {self.name} is {shape}")
        if shape is not None and shape[1:3] != [None, None]:
            raise Refused(f"expected any height and width, {self.name} is fixed to {shape[1:3]}")
        if shape is not None and shape[0] not in (None, 1):
            raise Refused(f"expected any batch size or 1, {self.name} is fixed to {shape[0]}")
        self.single = shape is not None and shape[0] == 1
        self.batches = not self.single
        outputs = self.function.structured_outputs
        if KEY not in outputs:
            raise Refused(f"expected an output {KEY}, serving_default gives {sorted(outputs)}")
        if outputs[KEY].dtype != self.tf.float32:
            raise Refused(f"expected a float32 output, {KEY} is {outputs[KEY].dtype.name}")
        return f"{self.name}: uint8 {shape} → {KEY}: float32"

    def __call__(self, images, by_name=True):
        tensor = self.tf.constant(images)
        outputs = self.function(**{self.name: tensor}) if by_name else self.function(tensor)
        return outputs[KEY].numpy()


class TorchSubmission:
    """TorchScript: uint8 [1, 3, H, W] → anything that flattens to D floats. Called with [1, H, W, 3]."""

    batches = False
    single = False

    def __init__(self, folder):
        import torch

        self.torch, self.version = torch, "PyTorch " + torch.__version__
        self.accelerated = torch.cuda.is_available()
        self.module = torch.jit.load(os.path.join(folder, "saved_model.pt"), map_location="cpu").eval()
        if self.accelerated:
            self.module = self.module.cuda()

    def signature(self):
        """Checks the arguments and the output's dtype; returns them as text."""
        taken = self.module.forward.schema.arguments[1:]  # the first is the module itself, whatever its name
        arguments = [a.name for a in taken]
        required = [a.name for a in taken if not a.has_default_value()]
        if len(required) > 1 or not arguments:
            raise Refused(f"expected forward(images), it takes {arguments}")
        output = self([blocks(64, 48, 0)])
        if output.dtype != np.float32:
            raise Refused(f"expected a float32 output, forward gives {output.dtype}")
        return f"{arguments[0]}: uint8 [1, 3, H, W] → float32"

    def __call__(self, images, by_name=True):
        with self.torch.no_grad():
            pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
            tensor = self.torch.from_numpy(pixels)
            output = self.module(tensor.cuda() if self.accelerated else tensor)
        if not isinstance(output, self.torch.Tensor):
            raise Refused(f"expected a tensor, forward gives {type(output).__name__}")
        return output.cpu().numpy().reshape(len(images), -1)


def peak_gigabytes():
    """Peak memory of the process. From /proc where it exists: rusage inherits the parent's across exec."""
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run_checks(folder, images_timed):
    """Yields (check, ok, detail), the last one "embeddings"; ends early where no further check can run."""
    torch = os.path.isfile(os.path.join(folder, "saved_model.pt"))
    try:
        submission = (TorchSubmission if torch else TensorFlowSubmission)(folder)
    except ModuleNotFoundError as error:
        yield "loads", False, f"this environment has no {error.name}"
        return
    except Exception as error:
        yield "loads", False, f"does not load: {type(error).__name__}: {first_line(error)}"
        return
    yield "loads", True, submission.version
    try:
        yield "signature", True, submission.signature()
    except Refused as error:
        yield "signature", False, str(error)
        return
    except Exception as error:
        yield "signature", False, f"the signature cannot be called: {first_line(error)}"
        return
    if submission.single:
        yield "one image a call", None, "the batch is fixed to 1, as Google's exporter writes it: the scorer sends one"

    outputs, size = {}, None
    for height, width in SIZES:
        try:
            output = submission(blocks(height, width, height)[None])
            if output.ndim != 2 or output.shape[0] != 1:
                raise Refused(f"expected an output [1, D], got {list(output.shape)}")
        except Exception as error:
            size = f"fails on an image of {height}×{width}: {first_line(error)}"
            break
        outputs[f"{height}x{width}"] = output[0]
    sizes = ", ".join(outputs).replace("x", "×")
    yield "any size", size is None, size or sizes
    if not outputs:
        return
    dims = {len(row) for row in outputs.values()}
    wrong_dim = len(dims) > 1 or max(dims) > MAX_DIM or max(dims) == 0
    why = f", the competition takes 1 … {MAX_DIM}" if wrong_dim else ""
    yield ("dimensions", not wrong_dim, f"{sorted(dims)} numbers{why}")

    fails = None
    for name, image in extremes().items():
        try:
            outputs[name] = submission(image[None])[0]
        except Exception as error:
            fails = f"fails on a {name} image: {first_line(error)}"
            break
    yield "extreme images", fails is None, fails or ", ".join(extremes())
    bad = [name for name, row in outputs.items() if not np.isfinite(row).all()]
    yield "finite", not bad, f"NaN or infinite for {', '.join(bad)}" if bad else "no NaN, no infinity"
    finite = {name: row for name, row in outputs.items() if name not in bad}
    if not finite:
        return
    off = {name: abs(float(np.linalg.norm(row)) - 1) for name, row in finite.items()}
    worst = max(off, key=lambda name: off[name])
    unit = off[worst] <= UNIT_TOLERANCE
    said = f"length off 1 by at most {off[worst]:.1e}"
    yield "unit length", unit, said if unit else f"length is off 1 by {off[worst]:.2g} for {worst}"
    if len(dims) == 1 and len(finite) > 2:
        spread = float(np.ptp(np.stack(list(finite.values())), axis=0).max())
        yield "not constant", spread > 1e-4, f"embeddings of different images differ by {spread:.2g}"

    try:
        yield from repeats(submission)
        yield from resized_before(submission)
        yield from cost(submission, images_timed)
    except Exception as error:
        yield "runs", False, f"fails when called again: {first_line(error)}"
    yield "embeddings", None, {name: row.tolist() for name, row in finite.items()}


def repeats(submission):
    """Checks that a second call, by position in place of by name, and a batch give the same embeddings."""
    batch = np.stack([blocks(120, 160, seed) for seed in range(4)])
    alone = np.concatenate([submission(image[None]) for image in batch])
    again = np.concatenate([submission(image[None], by_name=False) for image in batch])
    difference = float(np.abs(alone - again).max())
    same = difference <= REPEAT_TOLERANCE
    yield "same twice", same, f"two calls on the same image differ by {difference:.1e}"
    if submission.batches:
        together = submission(batch)
        if together.shape != alone.shape:
            yield "same in a batch", False, f"4 images give {list(together.shape)}"
            return
        difference = float(np.abs(alone - together).max())
        within = difference <= BATCH_TOLERANCE
        yield "same in a batch", within, f"an image alone and in a batch of 4 differs by {difference:.1e}"


def resized_before(submission):
    """Checks guie's second signature, where there is one: it takes pixels that are resized, outside the contract.

    An image of the encoder's own size stays as it is when it is resized, so both signatures must agree on it; where
    there are several sizes or crops, an image of one colour does.
    """
    loaded = getattr(submission, "loaded", None)
    signature = loaded.signatures.get("embed_resized") if loaded is not None else None
    if loaded is None or signature is None:
        return
    shapes = {name: spec.shape.as_list() for name, spec in signature.structured_input_signature[1].items()}
    sizes = {name: {"image_size_px": shape[2], "mean": (0, 0, 0)} for name, shape in shapes.items()}
    if None in [shape[2] for shape in shapes.values()]:  # images keep their aspect: `resizing` says their sizes
        told = json.loads(loaded.resizing().numpy())["sizes"]
        sizes = {f"pixels_{size['image_size_px']}": size for size in told}
    plain = np.full((1, 1, 3), [200, 30, 90], np.uint8)
    one = [shape[1] for shape in shapes.values()] == [1]
    sides = {name: sizes[name]["image_size_px"] for name in shapes}
    images = {name: blocks(side, side, 5) if one else np.tile(plain, (side, side, 1)) for name, side in sides.items()}
    pixels = {name: np.stack([filled(images[name], sizes[name])] * shapes[name][1])[None] for name in shapes}
    output = signature(**{name: submission.tf.constant(values) for name, values in pixels.items()})[KEY].numpy()
    expected = submission(next(iter(images.values()))[None])
    difference = float(np.abs(output - expected).max()) if output.shape == expected.shape else float("inf")
    said = f"an image that is resized before differs by {difference:.1e}"
    yield "same when resized before", difference <= (REPEAT_TOLERANCE if one else BATCH_TOLERANCE), said


def filled(image, size):
    """uint8 [S, S, 3] → float32; where images keep their aspect, filled up to whole patches with the mean colour."""
    lacking = -len(image) % size.get("multiple_px", 1)
    whole = np.tile(np.array(size["mean"], np.float32) * 255, (len(image) + lacking,) * 2 + (1,))
    first = lacking // 2
    whole[first : first + len(image), first : first + len(image)] = image
    return whole.astype(np.float32)


def cost(submission, images):
    """Measures the seconds per image, one at a time, and the process's peak memory."""
    seconds = []
    for seed in range(images):
        image = blocks(480, 640, seed)[None]
        start = time.perf_counter()
        submission(image)
        seconds.append(time.perf_counter() - start)
    device = "gpu" if submission.accelerated else "cpu"
    yield "seconds per image", None, {"seconds": statistics.median(seconds), "device": device}
    yield "peak memory", None, {"gigabytes": peak_gigabytes()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--images", type=int, default=20, help="how many are timed")
    arguments = parser.parse_args()
    # A model can print: its lines must not pass for findings.
    findings = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for folder in arguments.folders:
        for check, ok, detail in run_checks(folder, arguments.images):
            row = {"folder": folder, "check": check, "ok": ok, "detail": detail}
            print(json.dumps(row), file=findings, flush=True)


if __name__ == "__main__":
    main()
