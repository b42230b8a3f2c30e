"""Public benchmarks as their authors publish them: a file a layout, with its sizes and which split searches which."""

from tfrecords.benchmarks import cars196, gpr1200, inshop, sop, uned

LAYOUTS = (uned.LAYOUT, gpr1200.LAYOUT, sop.LAYOUT, inshop.LAYOUT, cars196.LAYOUT)
