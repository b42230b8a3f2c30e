"""Labelled vectors in Milvus: a file (Milvus Lite) or a cluster; the URI says which.

Vectors are stored at unit length and compared by cosine. The distance given back is the Euclidean distance of
the unit vectors, sqrt(2 − 2·cos): 0 the same, 1.41 unrelated, 2 opposite. The index is FLAT, so the search is
exact. Needs the extra `vectordb`.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.errors import BadInput, missing, reason
from pipeline.guards.masked import shown
from pipeline.retrieval.vectors import unit_length

KEY_BYTES = 1024  # of a key or a class name: Milvus wants a bound
FETCH = 256  # keys queried, rows written or deleted in one request
PAGE = 4096  # ids listed in one request; a cluster gives 16,384 at most


@dataclass(frozen=True)
class Neighbour:
    key: str
    class_name: str
    distance: float  # Euclidean, of unit vectors


class VectorDatabase:
    """One open database. Use it in a `with` block.

    `uri`: a path that ends in `.db` (Milvus Lite), or `http://host:19530` (a cluster). `token`: `user:password` or an
    API key of the cluster; empty for none. Raises BadInput: pymilvus is not installed, another process holds the file,
    the cluster does not answer.
    """

    def __init__(self, uri: str, token: str = ""):
        embedded = "://" not in uri
        lacking = [
            package
            for package in ("pymilvus", "milvus_lite")
            if (package == "pymilvus" or embedded) and importlib.util.find_spec(package) is None
        ]
        if lacking:
            raise missing("the vector database needs", lacking[0], "vectordb")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else it complains of its keep-alive pings
        from pymilvus import MilvusClient

        for name in ("pymilvus", "milvus_lite"):  # they log tracebacks of errors that we report in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if embedded:
            if not uri.endswith(".db"):
                raise BadInput(f"database: expected a path that ends in .db, or http://host:port; got {shown(uri)!r}")
            if Path(uri).is_file():
                raise BadInput(f"database: {uri} is a file, not a database that Milvus Lite made; name another")
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
        self.uri, self._secrets = shown(uri), [token, urlsplit(uri).password or ""]
        try:
            self.client = MilvusClient(uri=uri, token=token, timeout=20)
            self.client.list_collections()
        except Exception as error:  # pymilvus's, grpc's and ValueError
            why = "is it open in another process?" if embedded else self._said(error)
            raise BadInput(f"could not open the vector database {self.uri}: {why}") from None

    def __enter__(self) -> "VectorDatabase":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        self.client.close()
        if type(error).__module__.partition(".")[0] in ("pymilvus", "grpc"):
            raise BadInput(f"the vector database {self.uri} failed: {self._said(error)}; the same command goes on")

    def _said(self, error: Any) -> str:
        """The line of an error, without the token and the password."""
        text = reason(Exception(getattr(error, "message", error)))  # str() of a MilvusException is its repr
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text

    def open_collection(self, name: str, width: int, made_by: dict[str, Any], create: bool) -> None:
        """Makes a collection of vectors [width], or finds it there.

        `made_by`: what the vectors depend on (encoder, layer, …); stored with the collection. Raises BadInput:
        the collection was filled by another `made_by`, or it is missing and `create` is False.
        """
        from pymilvus import DataType

        mark = json.dumps({**made_by, "width": width}, sort_keys=True, ensure_ascii=True)
        if self.client.has_collection(name):
            described = self.client.describe_collection(name)
            stored = described.get("description") or described.get("properties", {}).get("guie", "")
            if stored != mark:
                raise BadInput(
                    f"the collection {name} of {self.uri} was filled by another encoder: "
                    f"{_difference(stored, mark)}; name another collection or database, or remove this one"
                )
            self.client.load_collection(name)
            return
        if not create:
            raise BadInput(f"{self.uri} holds no collection {name}: run `guie staged build` first")
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False, description=mark)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("key", DataType.VARCHAR, max_length=KEY_BYTES)
        schema.add_field("class_name", DataType.VARCHAR, max_length=KEY_BYTES)
        schema.add_field("digest", DataType.VARCHAR, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="COSINE")
        # Milvus Lite forgets the description and keeps the properties.
        self.client.create_collection(name, schema=schema, index_params=index, properties={"guie": mark})

    def digests(self, name: str, keys: Sequence[str]) -> dict[str, str]:
        """key → digest of the image it was made from, for those of `keys` that the collection holds."""
        found: dict[str, str] = {}
        for start in range(0, len(keys), FETCH):
            ids = [row_id(key) for key in keys[start : start + FETCH]]
            rows = self.client.query(name, ids=ids, output_fields=["key", "digest"])
            found.update((row["key"], row["digest"]) for row in rows)
        return found

    def insert(
        self, name: str, keys: Sequence[str], class_names: Sequence[str], digests: Sequence[str], vectors: np.ndarray
    ) -> None:
        """Writes rows; the row of a key that is there already is replaced. vectors: float32 [N, width]."""
        for text in (*keys, *class_names):
            if len(text.encode()) > KEY_BYTES:
                raise BadInput(f"keys and class names hold at most {KEY_BYTES} bytes, got {text[:60]!r}…")
        rows = [
            {"id": row_id(key), "key": key, "class_name": class_name, "digest": digest, "vector": vector}
            for key, class_name, digest, vector in zip(keys, class_names, digests, with_direction(vectors), strict=True)
        ]
        for start in range(0, len(rows), FETCH):
            self.client.upsert(name, rows[start : start + FETCH])

    def keep_only(self, name: str, keys: Collection[str]) -> int:
        """Deletes the rows of all other keys. Returns how many there were."""
        wanted = {row_id(key) for key in keys}
        others: list[str] = []
        pages = self.client.query_iterator(name, batch_size=PAGE, output_fields=["id"])
        while page := pages.next():
            others.extend(row["id"] for row in page if row["id"] not in wanted)
        pages.close()
        for start in range(0, len(others), FETCH):
            self.client.delete(name, ids=others[start : start + FETCH])
        return len(others)

    def finish(self, name: str) -> None:
        """Makes the rows durable and indexed. A search before it is correct, but slow."""
        self.client.flush(name)
        self.client.load_collection(name)

    def count(self, name: str) -> int:
        return int(self.client.query(name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def search(self, name: str, vectors: np.ndarray, k: int) -> list[list[Neighbour]]:
        """The k nearest rows of each of `vectors`, float32 [Q, width], nearest first; fewer where it holds fewer."""
        found = self.client.search(
            name, data=list(with_direction(vectors)), limit=k, output_fields=["key", "class_name"]
        )
        return [
            [
                Neighbour(hit["entity"]["key"], hit["entity"]["class_name"], cosine_to_distance(hit["distance"]))
                for hit in hits
            ]
            for hits in found
        ]


def row_id(key: str) -> str:
    """The primary key: a hash, because pymilvus does not escape quotes in the ids it queries."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def with_direction(vectors: np.ndarray) -> np.ndarray:
    """float [N, D] → float32 [N, D], unit length. A vector of zeros has no direction and gets that of ones."""
    vectors = np.asarray(vectors, np.float32)
    return unit_length(np.where(np.any(vectors, axis=1, keepdims=True), vectors, np.float32(1)))


def cosine_to_distance(cosine: float) -> float:
    """Euclidean distance of two unit vectors.

    >>> cosine_to_distance(1.0), cosine_to_distance(-1.0)
    (0.0, 2.0)
    """
    return float(np.sqrt(max(0.0, 2.0 - 2.0 * cosine)))


def _difference(stored: str, wanted: str) -> str:
    try:
        was, now = json.loads(stored), json.loads(wanted)
    except json.JSONDecodeError:
        return "it is not one of guie's"
    return ", ".join(
        f"{key} was {was.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted({*was, *now})
        if was.get(key) != now.get(key)
    )
