"""ResNet (CIFAR style), VGG-16, MobileNetV2 and DenseNet for small images, each rebuilt from a table of widths.

``widths`` maps the name of a convolution to its output channels; missing names keep the seed network's width. Zero for
the first convolution inside a residual block removes the block (its shortcut stays). That is the contract of every
task's ``model(widths)``: see docs/writing-a-task.md.

Sources: He et al., CVPR 2016 (section 4.2, ResNet-20 … with projection shortcuts where shapes change); Simonyan and
Zisserman, ICLR 2015 (configuration D, batch-norm and a global average pool for the fully connected layers);
Sandler et al., CVPR 2018 (MobileNetV2, strides as usual for small images); Huang et al., CVPR 2017 (section 3,
DenseNet-BC with three blocks for CIFAR: bottlenecks of four times the growth, transitions that halve).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rig.errors import BadInputError

Widths = Mapping[str, int]


def _width(widths: Widths, name: str, default: int) -> int:
    width = int(widths.get(name, default))
    if width < 0:
        raise BadInputError(f"width of {name} is {width}", "give a number of channels ≥ 0 (0 removes a residual block)")
    return width


def _tied(widths: Widths, names: Sequence[str], default: int) -> int:
    """The one width of layers that a residual addition ties; raises BadInputError where the table disagrees."""
    asked = {int(widths[name]) for name in names if name in widths}
    if len(asked) > 1:
        raise BadInputError(
            f"layers {', '.join(names)} are tied by an addition but were given widths {sorted(asked)}",
            "give them one width",
        )
    return asked.pop() if asked else default


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; ``inner`` = 0 leaves only the shortcut."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.removed = inner == 0
        if not self.removed:
            self.conv1 = nn.Conv2d(channels_in, inner, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(inner)
            self.conv2 = nn.Conv2d(inner, channels_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if projection:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) → (n, c_out, h/stride, w/stride)."""
        short = self.shortcut(x)
        if self.removed:
            return F.relu(short)
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + short)


class ResNet(nn.Module):
    """CIFAR-style ResNet: a 3×3 stem, stages of basic blocks, global average pool, one linear layer."""

    def __init__(
        self,
        blocks: Sequence[int] = (3, 3, 3),
        stage_widths: Sequence[int] = (16, 32, 64),
        classes: int = 10,
        channels: int = 1,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        table = dict(widths or {})
        stem_names = ["conv1", *(f"layer1.{i}.conv2" for i in range(blocks[0]))]
        previous = _tied(table, [n for n in stem_names if table.get(n, 1) != 0], stage_widths[0])
        self.conv1 = nn.Conv2d(channels, previous, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(previous)
        self.stages = len(blocks)
        for stage, (count, seed_width) in enumerate(zip(blocks, stage_widths, strict=True), start=1):
            prefix = f"layer{stage}"
            names = [f"{prefix}.{i}.conv2" for i in range(count)]
            if stage > 1:
                names.append(f"{prefix}.0.shortcut.0")
            out = previous if stage == 1 else _tied(table, [n for n in names if table.get(n, 1) != 0], seed_width)
            layers = []
            for i in range(count):
                inner = _width(table, f"{prefix}.{i}.conv1", seed_width)
                first = stage > 1 and i == 0
                layers.append(BasicBlock(previous, inner, out, 2 if first else 1, projection=first))
                previous = out
            setattr(self, prefix, nn.Sequential(*layers))
        self.fc = nn.Linear(previous, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


class VGG(nn.Module):
    """VGG-16 with batch-norm for small images; the last pool is a global average."""

    def __init__(
        self,
        plan: Sequence[int | str] = VGG16,
        classes: int = 10,
        channels: int = 1,
        multiplier: float = 1.0,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        table = dict(widths or {})
        layers: list[nn.Module] = []
        previous = channels
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            width = max(1, _width(table, f"features.{len(layers)}", max(1, round(int(step) * multiplier))))
            layers += [nn.Conv2d(previous, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            previous = width
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(previous, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.features(x), 1), 1))


# expansion, output channels, repeats, stride (small images: fewer strides than for ImageNet)
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise 3×3, project 1×1; ``hidden`` = 0 leaves the identity of a residual block."""

    def __init__(
        self, channels_in: int, hidden: int, channels_out: int, stride: int, expand: bool, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.removed = residual and hidden == 0
        self.has_expand = expand
        if self.removed:
            return
        if expand:
            self.expand = nn.Conv2d(channels_in, hidden, 1, bias=False)
            self.bn_expand = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn_depthwise = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, channels_out, 1, bias=False)
        self.bn_project = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) → (n, c_out, h/stride, w/stride)."""
        if self.removed:
            return x
        out = F.relu6(self.bn_expand(self.expand(x))) if self.has_expand else x
        out = F.relu6(self.bn_depthwise(self.depthwise(out)))
        out = self.bn_project(self.project(out))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 for small images, with a width multiplier."""

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        multiplier: float = 1.0,
        widths: Widths | None = None,
        plan: Sequence[tuple[int, int, int, int]] = MOBILENET_V2,
    ) -> None:
        super().__init__()
        table = dict(widths or {})

        def scaled(width: int) -> int:
            return max(8, int(width * multiplier + 4) // 8 * 8)

        previous = max(1, _width(table, "conv1", scaled(32)))
        self.conv1 = nn.Conv2d(channels, previous, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(previous)
        blocks: list[nn.Module] = []
        for expansion, seed_width, repeats, stride in plan:
            names = [f"blocks.{len(blocks) + i}.project" for i in range(repeats)]
            kept = [n for n in names if table.get(n.replace("project", "expand"), 1) != 0]
            out = _tied(table, kept, scaled(seed_width))
            for i in range(repeats):
                name = f"blocks.{len(blocks)}"
                residual = i > 0
                default = scaled(_seed_input(plan, len(blocks))) * expansion
                hidden = previous if expansion == 1 else _width(table, f"{name}.expand", default)
                step = stride if i == 0 else 1
                blocks.append(InvertedResidual(previous, hidden, out, step, expansion != 1, residual))
                previous = out
        self.blocks = nn.Sequential(*blocks)
        last = max(1, _width(table, "conv2", scaled(1280)))
        self.conv2 = nn.Conv2d(previous, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.fc = nn.Linear(last, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        x = self.blocks(F.relu6(self.bn1(self.conv1(x))))
        x = F.relu6(self.bn2(self.conv2(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _seed_input(plan: Sequence[tuple[int, int, int, int]], block: int) -> int:
    """Unscaled input width that block number ``block`` has in the seed network."""
    inputs = [32]
    for _, width, repeats, _ in plan:
        inputs += [width] * repeats
    return inputs[block]


class DenseLayer(nn.Module):
    """Batch-norm, 1×1 convolution, batch-norm, 3×3 convolution; what it makes is concatenated to what it was given."""

    def __init__(self, channels_in: int, inner: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) → (n, c_in + growth, h, w)."""
        made = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat((x, made), 1)


class Transition(nn.Module):
    """Between two dense blocks: batch-norm, 1×1 convolution, average pool."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) → (n, c_out, h/2, w/2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """DenseNet-BC for small images: dense blocks of ``layers`` layers, halved in width and size between them."""

    def __init__(
        self,
        layers: Sequence[int] = (6, 6, 6),
        growth: int = 12,
        classes: int = 10,
        channels: int = 1,
        widths: Widths | None = None,
    ) -> None:
        super().__init__()
        table = dict(widths or {})
        previous, seed = max(1, _width(table, "conv1", 2 * growth)), 2 * growth
        self.conv1 = nn.Conv2d(channels, previous, 3, padding=1, bias=False)
        self.stages = len(layers)
        for stage, count in enumerate(layers, start=1):
            block: list[nn.Module] = []
            for i in range(count):
                inner = max(1, _width(table, f"block{stage}.{i}.conv1", 4 * growth))
                made = max(1, _width(table, f"block{stage}.{i}.conv2", growth))
                block.append(DenseLayer(previous, inner, made))
                previous, seed = previous + made, seed + growth
            setattr(self, f"block{stage}", nn.Sequential(*block))
            if stage < self.stages:
                seed //= 2
                out = max(1, _width(table, f"transition{stage}.conv", seed))
                setattr(self, f"transition{stage}", Transition(previous, out))
                previous = out
        self.bn = nn.BatchNorm2d(previous)
        self.fc = nn.Linear(previous, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) → logits (n, classes)."""
        x = self.conv1(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"block{stage}")(x)
            if stage < self.stages:
                x = getattr(self, f"transition{stage}")(x)
        x = F.relu(self.bn(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


KNOWN = ("resnet20", "resnet{8,14,20,32,44,56}", "vgg16", "mobilenetv2", "densenet{22,40,100}")


def build(name: str, classes: int = 10, channels: int = 1, widths: Widths | None = None) -> nn.Module:
    """A network by name: ``resnet<6n+2>``, ``vgg16``, ``mobilenetv2``, ``densenet<6n+4>``.

    ``-0.5`` behind a name scales its widths (of a DenseNet its growth, 12). Raises BadInputError for an unknown name.
    """
    match = re.fullmatch(r"((?:resnet|densenet)(\d+)|vgg16|mobilenetv2)(?:-(\d*\.?\d+))?", name.lower())
    if match:
        kind, depth, scale = match.group(1), match.group(2), float(match.group(3) or 1.0)
        if kind == "vgg16":
            return VGG(classes=classes, channels=channels, multiplier=scale, widths=widths)
        if kind == "mobilenetv2":
            return MobileNetV2(classes=classes, channels=channels, multiplier=scale, widths=widths)
        if kind.startswith("densenet") and int(depth) >= 10 and (int(depth) - 4) % 6 == 0:
            layers = ((int(depth) - 4) // 6,) * 3
            return DenseNet(layers, max(1, round(12 * scale)), classes, channels, widths)
        if kind.startswith("resnet") and int(depth) >= 8 and (int(depth) - 2) % 6 == 0:
            stages = tuple(max(1, round(w * scale)) for w in (16, 32, 64))
            return ResNet(((int(depth) - 2) // 6,) * 3, stages, classes, channels, widths)
    raise BadInputError(f"unknown model {name!r}", f"known: {', '.join(KNOWN)}; or give a task file with model(widths)")
