"""The console script `guie`: finds the stage, turns its errors into one line and an exit code.

Every stage module has `parse(argv) -> config` and `main(config)`; it is imported only when it is asked for, so
`guie tfrecords` never pays for TensorFlow.
"""

import os
import sys

from pipeline.errors import BadInput
from pipeline.quiet import import_quietly

STAGES = {  # command: (module, what it does)
    "run": ("pipeline.run", "tfrecords → train → export → score, in one run folder"),
    "tfrecords": ("tfrecords.build", "images on disk → capped, verified shards"),
    "verify": ("tfrecords.verify", "reread every shard against the manifest"),
    "train": ("pipeline.training.train", "shards → checkpoint"),
    "plan": ("pipeline.training.plan", "parameters, FLOPs, memory and hours of a training config"),
    "import-weights": ("pipeline.models.import_weights", "open_clip checkpoint → KerasHub weights"),
    "export": ("export.saved_model", "checkpoint → SavedModel and submission.zip"),
    "check": ("export.check", "a submission against the competition's contract"),
    "submit": ("export.submit", "package, check, upload, wait for the score"),
    "score": ("pipeline.evaluation.score", "mean Precision@5 of any embedder"),
    "embed": ("pipeline.evaluation.embed", "images → embeddings.npy and items.csv"),
    "zero-shot": ("pipeline.zero_shot.command", "CLIP and SigLIP against class prompts"),
    "staged": ("pipeline.staged.command", "classification out of a vector database, shallow to deep"),
    "similar": ("pipeline.similar.command", "the images most similar to one"),
    "captions": ("pipeline.captions.command", "text–image similarity from a CSV"),
    "browse": ("pipeline.pages.browse", "embedded images and their nearest, as a local web page"),
    "report": ("pipeline.pages.report", "a run folder as one HTML page"),
}


def usage() -> str:
    rows = "\n".join(f"  {name:<15} {what}" for name, (_, what) in STAGES.items())
    return f"usage: guie COMMAND …   (guie COMMAND --help)\n\n{rows}"


def main(argv: list[str] | None = None) -> int:
    """Runs one stage.

    Returns:
        0 done, 2 bad input (one line on stderr), 130 interrupted. A fault of guie's own raises (exit code 1).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in STAGES:
        print(f"guie: expected a command, got {command!r}; one of: {', '.join(STAGES)}", file=sys.stderr)
        return 2
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        stage = import_quietly(STAGES[command][0])
        stage.main(stage.parse(rest))
    except BadInput as error:
        print(f"guie {command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        print(
            f"guie {command}: {error.strerror}: {error.filename}; choose another folder, or mend its rights",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"guie {command}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
