"""Four published image networks in plain torch, for a task of one's own or to try ``rig predict`` on.

    python examples/image_networks.py mobilenet-v3-small mobilenet.onnx
    rig predict mobilenet.onnx --device virtual-pi4

Sources: MobileNetV3 (Howard et al., ICCV 2019, table 2), EfficientNet (Tan and Le, ICML 2019; lite: TensorFlow TPU
repository), ShuffleNetV2 (Ma et al., ECCV 2018, table 5), DenseNet (Huang et al., CVPR 2017, table 1). Blocks and
widths are the papers'; weights are untrained. ``width`` narrows all of them, ``depth`` cuts each stage short.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def rounded(channels: float) -> int:
    """A multiple of eight, never more than a tenth narrower than asked for (as the papers' code rounds)."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def layer(
    channels: int,
    out: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation."""
    parts: list[nn.Module] = [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*parts, *([activation()] if activation else []))


class Gate(nn.Module):
    """Squeeze-and-excitation: each channel scaled by what the average of all of them says."""

    def __init__(self, channels: int, inner: int, inside: Callable[[], nn.Module], outside: Callable[[], nn.Module]):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze, self.inside = nn.Conv2d(channels, inner, 1), inside()
        self.excite, self.outside = nn.Conv2d(inner, channels, 1), outside()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.outside(self.excite(self.inside(self.squeeze(self.pool(x)))))


class Inverted(nn.Module):
    """Inverted residual: expand, depthwise, maybe a gate, project; added to the input where the shapes allow."""

    def __init__(
        self,
        channels: int,
        inner: int,
        out: int,
        kernel: int,
        stride: int,
        activation: Callable[[], nn.Module],
        gate: nn.Module | None,
    ):
        super().__init__()
        parts = [layer(channels, inner, activation=activation)] if inner != channels else []
        parts.append(layer(inner, inner, kernel, stride, inner, activation))
        self.body = nn.Sequential(*parts, *([gate] if gate else []), layer(inner, out, activation=None))
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v3_small(classes: int = 1000, width: float = 1.0, depth: int = 99) -> nn.Sequential:
    """MobileNetV3-small: hardswish, gates of hard sigmoids."""
    table = [  # kernel, inner, out, gate, hardswish, stride
        (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
    ]  # fmt: skip
    channels = rounded(16 * width)
    parts: list[nn.Module] = [layer(3, channels, 3, 2, activation=nn.Hardswish)]
    for kernel, inner, out, gated, hard, stride in table[: 4 * depth]:
        middle, narrow = rounded(inner * width), rounded(out * width)
        gate = Gate(middle, rounded(middle / 4), nn.ReLU, nn.Hardsigmoid) if gated else None
        parts.append(Inverted(channels, middle, narrow, kernel, stride, nn.Hardswish if hard else nn.ReLU, gate))
        channels = narrow
    last, head = rounded(576 * width), rounded(1024 * width)
    parts += [layer(channels, last, activation=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(last, head), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(head, classes))


EFFICIENT = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
             (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # fmt: skip


def _efficientnet(
    lite: bool, activation: Callable[[], nn.Module], classes: int, width: float, depth: int
) -> nn.Sequential:
    channels = 32 if lite else rounded(32 * width)
    parts: list[nn.Module] = [layer(3, channels, 3, 2, activation=activation)]
    for expansion, kernel, stride, out, repeats in EFFICIENT:
        for number in range(min(repeats, depth)):
            inner, narrow = channels * expansion, rounded(out * width)
            gate = None if lite else Gate(inner, max(1, channels // 4), nn.SiLU, nn.Sigmoid)
            step = stride if number == 0 else 1
            parts.append(Inverted(channels, inner, narrow, kernel, step, activation, gate))
            channels = narrow
    head = rounded(1280 * width)
    parts += [layer(channels, head, activation=activation), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Dropout(0.2), nn.Linear(head, classes))


def efficientnet_b0(classes: int = 1000, width: float = 1.0, depth: int = 99) -> nn.Sequential:
    """EfficientNet-B0: silu, gates of sigmoids."""
    return _efficientnet(False, nn.SiLU, classes, width, depth)


def efficientnet_lite0(classes: int = 1000, width: float = 1.0, depth: int = 99) -> nn.Sequential:
    """EfficientNet-lite0: relu6, no gates."""
    return _efficientnet(True, nn.ReLU6, classes, width, depth)


class Shuffled(nn.Module):
    """ShuffleNetV2 unit: half of the channels pass by (or both halves are reduced), then they are dealt out anew."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        half, self.split = out // 2, stride == 1
        given = channels // 2 if self.split else channels
        self.beside = None if self.split else nn.Sequential(layer(given, given, 3, 2, given, None), layer(given, half))
        self.body = nn.Sequential(layer(given, half), layer(half, half, 3, stride, half, None), layer(half, half))

    def forward(self, x: Tensor) -> Tensor:
        if self.beside is None:
            passing, worked = x.chunk(2, dim=1)
        else:
            passing, worked = self.beside(x), x
        joined = torch.cat((passing, self.body(worked)), dim=1)
        batch, channels, height, wide = joined.shape
        dealt = joined.view(batch, 2, channels // 2, height, wide).transpose(1, 2).contiguous()
        return dealt.view(batch, channels, height, wide)


def shufflenet_v2(classes: int = 1000, width: float = 1.0, depth: int = 99) -> nn.Sequential:
    """ShuffleNetV2 1x: splits, concatenations, channel shuffles."""
    parts: list[nn.Module] = [layer(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 24
    for out, repeats in ((116, 4), (232, 8), (464, 4)):
        for number in range(min(repeats, depth)):
            wide = 2 * rounded(out * width / 2) if width != 1.0 else out
            parts.append(Shuffled(channels, wide, 2 if number == 0 else 1))
            channels = wide
    head = rounded(1024 * width)
    return nn.Sequential(*parts, layer(channels, head), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, classes))


class Dense(nn.Module):
    """DenseNet layer: what it makes is concatenated to what it was given."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), layer(channels, 4 * growth), nn.Conv2d(4 * growth, growth, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), dim=1)


def densenet(
    classes: int = 1000, width: float = 1.0, depth: int = 99, blocks: Sequence[int] = (6, 12, 24, 16)
) -> nn.Sequential:
    """DenseNet-121: concatenations, batch norms without a convolution before them."""
    growth = rounded(32 * width)
    channels = 2 * growth
    parts: list[nn.Module] = [layer(3, channels, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, count in enumerate(blocks):
        for _ in range(min(count, depth)):
            parts.append(Dense(channels, growth))
            channels += growth
        if stage < len(blocks) - 1:
            narrow = channels // 2
            parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, narrow, 1, bias=False), nn.AvgPool2d(2)]
            channels = narrow
    parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(channels, classes))


NETWORKS: dict[str, Callable[..., nn.Sequential]] = {
    "mobilenet-v3-small": mobilenet_v3_small,
    "efficientnet-b0": efficientnet_b0,
    "efficientnet-lite0": efficientnet_lite0,
    "shufflenet-v2": shufflenet_v2,
    "densenet-121": densenet,
}


def main(name: str, path: str) -> None:
    """Export a network, untrained, at 224 × 224."""
    torch.onnx.export(NETWORKS[name]().eval(), (torch.zeros(1, 3, 224, 224),), path, dynamo=True, external_data=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
