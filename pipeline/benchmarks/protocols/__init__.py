"""Protocols: the vectors of a benchmark's parts → its tables. One module a protocol, `score(work) -> list[Mode]`.

Where a benchmark has a format for vectors also `export(path, work)`.
"""
