"""What a convolution looks like to the algorithms of a GPU library: tiles, waves, transforms.

A matrix product is cut into tiles, and the tiles are dealt to the processors in waves; Winograd's algorithm (Lavin and
Gray, CVPR 2016) cuts the map into small squares. Which algorithm, tile and number of processors a device has is not
known here: these are candidates, as logarithms of work, of counts and of what quantization wastes, and the fit chooses.
``size_features`` are the smooth ones (sizes and work), ``tile_features`` those with steps.
"""

from __future__ import annotations

import numpy as np

from power_models.features import Floats, KernelColumns, evenness, shape_features, waste

GEMM_TILES = ((128, 128), (128, 64), (128, 32), (64, 64), (32, 32))
ROW_TILES = (32, 64, 128, 256)
SQUARES = (2, 4, 6)  # outputs a side that Winograd's algorithm makes at once
PATCHES = (8, 16)
WINOGRAD_TILES = (32, 128)


def size_features(columns: KernelColumns) -> Floats:
    """Log sizes and log work (n, a), smooth in every dimension."""
    number = columns.number
    sizes = [
        np.log(number("in_channels") / number("groups")),
        np.log(number("out_channels")),
        0.5 * np.log(number("in_height") * number("in_width")),
        np.log(columns.pixels),
        0.5 * np.log(columns.window),
        np.log(number("batch")),
        np.log(np.where(columns.macs > 0, columns.macs, columns.out_elements * columns.window)),
        np.log(columns.bytes_moved),
        np.log1p(columns.weight_bytes),
        np.log1p(columns.patch_elements),
    ]
    return np.stack(sizes, 1)


def tile_features(columns: KernelColumns, kinds: tuple[str, ...]) -> Floats:
    """Features with steps (n, b): tiles, wastes, alignment, and the shape features of ``features``."""
    number = columns.number
    height, width, batch = number("out_height"), number("out_width"), number("batch")
    rows, outputs, inputs = columns.pixels, number("out_channels"), number("in_channels") / number("groups")
    found = [waste(rows, block) for block in ROW_TILES] + [waste(outputs, block) for block in ROW_TILES]
    found += [waste(inputs, block) for block in (8, 32)]
    for side in SQUARES:
        found.append(waste(height, side) + waste(width, side))
        found.append(np.log(np.ceil(height / side) * np.ceil(width / side) * batch))
    found += [waste(height, side) + waste(width, side) for side in PATCHES]
    found += [np.log(np.ceil(rows / tall) * np.ceil(outputs / wide)) for tall, wide in GEMM_TILES]
    squares = np.ceil(height / 4) * np.ceil(width / 4) * batch
    found += [np.log(np.ceil(squares / tile) * np.ceil(outputs / tile)) for tile in WINOGRAD_TILES]
    found += [
        np.log(inputs * columns.window),
        np.log(np.minimum(inputs, outputs)),
        np.log(inputs / outputs),
        np.log(columns.in_elements),
        np.log(columns.out_elements),
        np.log(batch),
    ]
    found += [evenness(rows), evenness(batch), evenness(number("in_height"))]
    return np.hstack([np.stack(found, 1), shape_features(columns, kinds)])
