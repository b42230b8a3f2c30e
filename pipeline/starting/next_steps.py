"""What to do after the demo."""

from pathlib import Path

from pipeline.config import Run


def after_demo(run: Run) -> None:
    """Says where the report is and what to try next."""
    folder = Path(run.run_dir)
    print(
        f"\ndemo: the report is {folder / 'report.html'}: open it in a browser. Next:\n"
        f"  guie score {folder / 'submission.zip'} --index FOLDER    this embedder on your own class folders\n"
        f"  guie fit FOLDER                                          one trained on them\n"
        f"  guie configs                                             recipes for real images and large encoders"
    )
