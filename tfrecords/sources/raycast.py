"""Solid parts by ray casting in NumPy: what the drawn images are made of.

A part is a convex solid inside the cube [-1, 1]³, brought to the picture by an affine map. Under parallel
projection a pixel's ray is a straight line in the part's own coordinates too, and its direction there is the
same for all pixels, so a solid costs a few array operations: the ray is inside between the latest entry and
the earliest exit of the solid's surfaces.
"""

from dataclasses import dataclass

import numpy as np


def _planes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    planes = np.array(rows, np.float32)
    return planes / np.linalg.norm(planes[:, :3], axis=1, keepdims=True)


def _prism(sides: int) -> np.ndarray:
    angles = np.arange(sides) * 2 * np.pi / sides
    # The corners, not the faces, touch the unit circle: the solid stays in the cube.
    rows = [(np.cos(a), np.sin(a), 0.0, np.cos(np.pi / sides)) for a in angles]
    return _planes(*rows, (0, 0, 1, 1), (0, 0, -1, 1))


def _pyramid(sides: int) -> np.ndarray:
    apothem = np.cos(np.pi / sides)
    angles = np.arange(sides) * 2 * np.pi / sides
    rows = [(np.cos(a), np.sin(a), apothem / 2, apothem / 2) for a in angles]  # apex at z = 1, base at z = -1
    return _planes(*rows, (0, 0, -1, 1))


# Polyhedra as half-spaces n·u ≤ h, rows (n, h) [faces, 4] float32; round solids are handled by name.
SOLIDS: dict[str, np.ndarray | None] = {
    "ball": None,
    "can": None,
    "box": _planes(*[(*(s * np.eye(3)[a]), 1.0) for a in range(3) for s in (1, -1)]),
    "diamond": _planes(*[(a, b, c, 1.0) for a in (1, -1) for b in (1, -1) for c in (1, -1)]),
    "wedge": _prism(3),
    "nut": _prism(6),
    "pyramid": _pyramid(4),
    "spike": _pyramid(8),
}


@dataclass(frozen=True)
class Seen:
    """The pixels at which a part is the nearest so far."""

    pixels: np.ndarray  # [n] int64 into the flattened picture
    normal: np.ndarray  # [3, n] float32 in the picture's axes, unit length
    local: np.ndarray  # [3, n] float32, the points in the part's own coordinates, for its pattern


def cast(solid: str, matrix: np.ndarray, centre: np.ndarray, nearest: np.ndarray) -> Seen:
    """Casts the rays of a square picture at one part and notes in `nearest` how near it came.

    Args:
        solid: a name in SOLIDS.
        matrix: [3, 3] float32, the part's coordinates → the picture's, which run over [-1, 1] with y upwards
            and z towards the eye.
        centre: [3] float32, the part's origin in the picture.
        nearest: [side, side] float32, the distance of what is seen so far, infinity where there is nothing;
            changed in place.
    """
    side = len(nearest)
    grid = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    reach = np.abs(matrix).sum(1)  # of the cube around the solid
    columns = slice(*np.searchsorted(grid, [centre[0] - reach[0], centre[0] + reach[0]]))
    rows = slice(*np.searchsorted(grid, [-centre[1] - reach[1], -centre[1] + reach[1]]))
    x, y = grid[columns] - centre[0], -grid[rows] - centre[1]  # [w], [h]
    inverse = np.linalg.inv(matrix).astype(np.float32)
    along = -inverse[:, 2]  # [3] the ray's direction (into the picture) in the part's coordinates
    planes = SOLIDS[solid]
    if planes is None:
        depth, hit, cap = _round(solid, inverse, x, y, centre[2])
    else:
        depth, hit, face = _polyhedron(planes, inverse, x, y, centre[2])
    window = nearest[rows, columns]
    row, column = np.nonzero(hit & (depth < window))
    window[row, column] = depth[row, column]
    local = inverse @ np.stack([x[column], y[row], np.full(len(row), -centre[2])])
    local += along[:, None] * depth[row, column]
    if planes is not None:
        gradient = planes[:, :3].T[:, face[row, column]]
    elif solid == "ball":
        gradient = local
    else:
        on_cap = cap[row, column]
        gradient = np.stack([*np.where(on_cap, 0, local[:2]), np.where(on_cap, -np.sign(along[2]), 0)])
    normal = inverse.T @ gradient  # normals go by the inverse transpose
    normal /= np.sqrt((normal * normal).sum(0)) + 1e-9
    return Seen((row + rows.start) * side + column + columns.start, normal, local.astype(np.float32))


def _polyhedron(planes, inverse, x, y, z):
    """Where the rays enter: depth [h, w], whether they do [h, w], through which face [h, w]."""
    turned = planes[:, :3] @ inverse  # [faces, 3] the faces' normals along the picture's axes
    slope = -turned[:, 2]
    slope[np.abs(slope) < 1e-6] = 1e-6
    constant = (planes[:, 3] + turned[:, 2] * z) / slope
    turned = turned / slope[:, None]
    cross = (constant[:, None] - turned[:, 1, None] * y)[:, :, None] - (turned[:, 0, None] * x)[:, None]
    entering = np.flatnonzero(slope < 0)
    first = cross[entering]  # [entering faces, h, w]
    depth = first.max(0)
    return depth, depth < cross[slope > 0].min(0), entering[first.argmax(0)]


def _round(solid, inverse, x, y, z):
    """Where the rays enter: depth [h, w], whether they do [h, w], whether through a flat end [h, w]."""
    axes = 2 if solid == "can" else 3
    along = -inverse[:, 2]
    start = [i[0] * x + (i[1] * y - i[2] * z)[:, None] for i in inverse]  # 3 × [h, w]
    a = max(float(along[:axes] @ along[:axes]), 1e-9)
    b = sum(along[i] * start[i] for i in range(axes))
    inside = b * b - a * (sum(start[i] * start[i] for i in range(axes)) - 1)
    hit = inside > 0
    root = np.sqrt(np.maximum(inside, 0))
    depth = (-b - root) / a
    if solid == "ball":
        return depth, hit, hit
    slope = along[2] if abs(along[2]) > 1e-6 else 1e-6
    near, far = ((s * np.sign(slope) - start[2]) / slope for s in (-1, 1))  # the two flat ends
    on_cap = near > depth
    depth = np.where(on_cap, near, depth)
    return depth, hit & (depth < np.minimum((-b + root) / a, far)), on_cap
