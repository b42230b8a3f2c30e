"""Dimensions of the convolutional encoders, as the arguments of KerasHub's classes. No TensorFlow."""

from typing import Any

_MBCONV = {  # EfficientNet B0 (Tan and Le 2019, table 1) as KerasHub's class spells it
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    "stackwise_block_types": ["v1"] * 7,
    "min_depth": None,
    "use_depth_divisor_as_min_depth": True,
    "cap_round_filter_decrease": True,
    "dropout": 0.0,
}
EFFICIENTNET: dict[str, tuple[str, dict[str, Any], int, str]] = {
    f"efficientnet_{size}": (
        "efficientnet",
        {**_MBCONV, "stackwise_width_coefficients": [wide] * 7, "stackwise_depth_coefficients": [deep] * 7},
        px,
        preset,
    )
    for size, wide, deep, px, preset in (
        ("b0", 1.0, 1.0, 224, "efficientnet_b0_ra_imagenet"),
        ("b1", 1.0, 1.1, 240, "efficientnet_b1_ft_imagenet"),
        ("b2", 1.1, 1.2, 260, "efficientnet_b2_ra_imagenet"),
        ("b3", 1.2, 1.4, 300, "efficientnet_b3_ra2_imagenet"),
        ("b4", 1.4, 1.8, 320, "efficientnet_b4_ra2_imagenet"),
        ("b5", 1.6, 2.2, 448, "efficientnet_b5_sw_imagenet"),
    )
}

# Howard et al. 2019, tables 1 and 2. A tuple is a block: kernel, expanded, out, squeeze-excite, activation, stride.
_RELU, _SWISH = "relu", "hard_swish"
Stacks = list[list[tuple[Any, ...]]]
_V3_SMALL: Stacks = [
    [(3, 72, 24, None, _RELU, 2), (3, 88, 24, None, _RELU, 1)],
    [(5, 96, 40, 0.25, _SWISH, 2), (5, 240, 40, 0.25, _SWISH, 1), (5, 240, 40, 0.25, _SWISH, 1)],
    [(5, 120, 48, 0.25, _SWISH, 1), (5, 144, 48, 0.25, _SWISH, 1)],
    [(5, 288, 96, 0.25, _SWISH, 2), (5, 576, 96, 0.25, _SWISH, 1), (5, 576, 96, 0.25, _SWISH, 1)],
]
_V3_SMALL_HALF: Stacks = [
    [(3, 40, 16, None, _RELU, 2), (3, 56, 16, None, _RELU, 1)],
    [(5, 64, 24, 0.25, _SWISH, 2), (5, 144, 24, 0.25, _SWISH, 1), (5, 144, 24, 0.25, _SWISH, 1)],
    [(5, 72, 24, 0.25, _SWISH, 1), (5, 72, 24, 0.25, _SWISH, 1)],
    [(5, 144, 48, 0.25, _SWISH, 2), (5, 288, 48, 0.25, _SWISH, 1), (5, 288, 48, 0.25, _SWISH, 1)],
]
_V3_LARGE: Stacks = [
    [(3, 64, 24, None, _RELU, 2), (3, 72, 24, None, _RELU, 1)],
    [(5, 72, 40, 0.25, _RELU, 2), (5, 120, 40, 0.25, _RELU, 1), (5, 120, 40, 0.25, _RELU, 1)],
    [(3, 240, 80, None, _SWISH, 2), (3, 200, 80, None, _SWISH, 1), *[(3, 184, 80, None, _SWISH, 1)] * 2],
    [(3, 480, 112, 0.25, _SWISH, 1), (3, 672, 112, 0.25, _SWISH, 1)],
    [(5, 672, 160, 0.25, _SWISH, 2), *[(5, 960, 160, 0.25, _SWISH, 1)] * 2],
]


def _mobilenet(stacks: Stacks, first: int, last: int, stem: dict[str, Any]) -> dict[str, Any]:
    def column(index: int) -> list[list[Any]]:
        return [[block[index] for block in stack] for stack in stacks]

    return {
        "stackwise_num_blocks": [len(stack) for stack in stacks],
        "stackwise_kernel_size": column(0),
        "stackwise_expansion": column(1),
        "stackwise_num_filters": column(2),
        "stackwise_se_ratio": column(3),
        "stackwise_activation": column(4),
        "stackwise_num_strides": column(5),
        "stackwise_padding": [[block[0] // 2 for block in stack] for stack in stacks],
        "input_num_filters": 16,
        "output_num_filters": 1024,
        "depthwise_filters": first,
        "last_layer_filter": last,
        **stem,
    }


_SMALL_STEM = {"depthwise_stride": 2, "depthwise_residual": False, "squeeze_and_excite": 0.5}
_LARGE_STEM = {"depthwise_stride": 1, "depthwise_residual": True, "squeeze_and_excite": None}
MOBILENET = {
    name: ("mobilenet", _mobilenet(stacks, first, last, stem), 224, preset)
    for name, stacks, first, last, stem, preset in (
        ("mobilenet_v3_small_050", _V3_SMALL_HALF, 8, 288, _SMALL_STEM, "mobilenet_v3_small_050_imagenet"),
        ("mobilenet_v3_small", _V3_SMALL, 16, 576, _SMALL_STEM, "mobilenet_v3_small_100_imagenet"),
        ("mobilenet_v3_large", _V3_LARGE, 16, 960, _LARGE_STEM, "mobilenet_v3_large_100_imagenet"),
    )
}

NETWORKS = EFFICIENTNET | MOBILENET  # name: (family, arguments, image size in px, KerasHub preset)
