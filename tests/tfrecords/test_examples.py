"""The examples in the docstrings of tfrecords are right."""

import doctest
import importlib
import pkgutil

import tfrecords


def test_every_example_gives_what_it_says():
    names = [module.name for module in pkgutil.walk_packages(tfrecords.__path__, "tfrecords.")]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) >= 7
