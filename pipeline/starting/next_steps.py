"""What to do after the demo."""

from pathlib import Path

from pipeline.config import Run


def after_demo(run: Run) -> None:
    """Says where the report is and what to try next."""
    folder = Path(run.run_dir)
    tries = {
        f"guie browse {folder}": "its images, their neighbours and a map, on a local page",
        f"guie score {folder / 'submission.zip'} --index FOLDER": "this embedder on your own class folders",
        "guie fit FOLDER": "an embedder that is trained on them",
        "guie configs": "recipes for real images and large encoders",
    }
    width = max(map(len, tries))
    print(f"\ndemo: the report is {folder / 'report.html'}: open it in a browser. Next:")
    for command, what in tries.items():
        print(f"  {command.ljust(width)}  {what}")
