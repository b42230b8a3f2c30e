"""Small sets in the exact layouts of the public benchmarks, drawn: a function a benchmark, → the root of its layout.

A picture shows its class: a colour and a grid of the class, with noise of the image, so that raw pixels find the class.
"""

from tests.drawn_benchmarks.classics import draw_cars196, draw_cub200, draw_gpr1200, draw_inshop, draw_sop
from tests.drawn_benchmarks.more import (
    draw_food2k,
    draw_gldv2,
    draw_ilias,
    draw_inat2018,
    draw_met,
    draw_oml,
    draw_rp2k,
)
from tests.drawn_benchmarks.pictures import picture, write
from tests.drawn_benchmarks.uned import UNED, Row, draw_uned, write_list

__all__ = [
    "UNED",
    "Row",
    "draw_cars196",
    "draw_cub200",
    "draw_food2k",
    "draw_gldv2",
    "draw_gpr1200",
    "draw_ilias",
    "draw_inat2018",
    "draw_inshop",
    "draw_met",
    "draw_oml",
    "draw_rp2k",
    "draw_sop",
    "draw_uned",
    "picture",
    "write",
    "write_list",
]
