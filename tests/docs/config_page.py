"""docs/config.md: every key of every config, as it stands in the dataclasses.

python -m tests.docs.config_page
"""

from pipeline import files
from pipeline.config import reference
from tests.docs.pages import DOCS

PAGE = DOCS / "config.md"
HEAD = """# Every key of a config

A config is a YAML file; on the command line any key is replaced by `KEY=VALUE`, dotted: `train.seed=1`,
`train.phases.0.epochs=2`, `'seeds=[0,1,2]'`. `guie config show` prints these keys, `guie config show CONFIG` what a
config makes of them; `guie new NAME` writes a config to edit. An unknown key is refused with the nearest known ones, a
value out of its range with the range, before anything is read. `${oc.env:NAME}` takes a value of the environment.

<!-- made by python -m tests.docs.config_page -->

"""


def page() -> str:
    return HEAD + reference.markdown().rstrip() + "\n"


if __name__ == "__main__":
    files.write_text(PAGE, page())
    print(f"→ {PAGE}")
