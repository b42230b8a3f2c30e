"""What the search found, in the two forms that the authors' evaluation reads.

similarities.json: {query: {image: similarity}}; similarities.pkl: query_ids, db_ids, similarities, ranks. Their own
search calls the third `sims`, which their evaluation refuses as an unexpected argument.
"""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline import files

JSON, PICKLE = "similarities.json", "similarities.pkl"
NO_IMAGE = ""  # the id that a query without a vector finds


def write(
    folder: Path, queries: Sequence[str], rows: np.ndarray, similarities: np.ndarray, keys: Mapping[int, str]
) -> None:
    """Writes both files, each whole or not at all. A query that finds nothing is in them, so that it counts as 0.

    Args:
        queries: Q ids. rows: int64 [Q, k] of the database, as many of each query or -1 for none of it.
        similarities: float32 [Q, k]. keys: row → id, of every row found.
    """
    with files.atomic_path(folder / JSON) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, query in enumerate(queries):
            near = zip(rows[number].tolist(), similarities[number].tolist(), strict=True)
            found = {keys[row]: similarity for row, similarity in near if row >= 0}
            file.write(("{" if not number else ",\n") + f"{json.dumps(query)}: {json.dumps(found)}")
        file.write("}\n" if queries else "{}\n")
    filled = int((rows >= 0).sum(axis=1).max(initial=0))
    used, ranks = np.unique(rows[:, :filled], return_inverse=True)
    held = {
        "query_ids": list(queries),
        "db_ids": [keys.get(row, NO_IMAGE) for row in used.tolist()],
        "similarities": similarities[:, :filled],
        "ranks": ranks.reshape(len(queries), filled),
    }
    with files.atomic_path(folder / PICKLE) as temporary, temporary.open("wb") as file:
        pickle.dump(held, file)
