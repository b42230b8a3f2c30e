"""Public benchmarks as their authors publish them: a file a layout, with its sizes and which split searches which."""

from tfrecords.benchmarks import cars196, food2k, gldv2, gpr1200, ilias, inat2018, inshop, met, oml, rp2k, sop, uned

LAYOUTS = (
    uned.LAYOUT, ilias.LAYOUT, gpr1200.LAYOUT, sop.LAYOUT, inshop.LAYOUT, cars196.LAYOUT, gldv2.LAYOUT, met.LAYOUT,
    rp2k.LAYOUT, food2k.LAYOUT, inat2018.LAYOUT, oml.LAYOUT,
)  # fmt: skip
