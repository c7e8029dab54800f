"""Small networks of the kinds that surgery must do right or leave alone, each with the widths it can be built at."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (1, 12, 12)
EXAMPLE = torch.zeros(1, *IMAGE)
PROBE = torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(5))

Widths = Mapping[str, int] | None


class Gated(nn.Module):
    """Squeeze-and-excitation in a residual block of a depthwise convolution."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        w = {"stem": 8, "expand": 12, "squeeze": 6, **(widths or {})}
        self.stem = nn.Conv2d(1, w["stem"], 3, padding=1)
        self.removed = w["expand"] == 0
        if not self.removed:
            self.expand, self.norm1 = nn.Conv2d(w["stem"], w["expand"], 1, bias=False), nn.BatchNorm2d(w["expand"])
            self.depthwise = nn.Conv2d(w["expand"], w["expand"], 3, padding=1, groups=w["expand"], bias=False)
            self.norm2 = nn.BatchNorm2d(w["expand"])
            self.squeeze = nn.Conv2d(w["expand"], w["squeeze"], 1)
            self.excite = nn.Conv2d(w["squeeze"], w["expand"], 1)
            self.project, self.norm3 = nn.Conv2d(w["expand"], w["stem"], 1, bias=False), nn.BatchNorm2d(w["stem"])
        self.fc = nn.Linear(w["stem"], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if not self.removed:
            y = F.silu(self.norm1(self.expand(x)))
            y = F.silu(self.norm2(self.depthwise(y)))
            y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
            x = x + self.norm3(self.project(y))
        return self.fc(x.mean((2, 3)))


class Grouped(nn.Module):
    """A ResNeXt block: what feeds and what leaves a convolution in four groups goes in fours."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        w = {"stem": 8, "reduce": 16, "middle": 32, **(widths or {})}
        self.stem = nn.Conv2d(1, w["stem"], 3, padding=1)
        self.reduce, self.norm1 = nn.Conv2d(w["stem"], w["reduce"], 1, bias=False), nn.BatchNorm2d(w["reduce"])
        self.middle = nn.Conv2d(w["reduce"], w["middle"], 3, padding=1, groups=4, bias=False)
        self.norm2 = nn.BatchNorm2d(w["middle"])
        self.expand = nn.Conv2d(w["middle"], w["stem"], 1)
        self.fc = nn.Linear(w["stem"], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.norm2(self.middle(F.relu(self.norm1(self.reduce(x))))))
        return self.fc(F.relu(x + self.expand(y)).mean((2, 3)))


class Flattened(nn.Module):
    """No batch-norm; concatenated branches, an image flattened into a linear layer, one slope a channel."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        w = {"left": 6, "right": 4, "join": 8, "hidden": 10, **(widths or {})}
        self.left = nn.Conv2d(1, w["left"], 3)
        self.right = nn.Conv2d(1, w["right"], 3)
        self.slopes = nn.PReLU(w["left"] + w["right"])
        self.join = nn.Conv2d(w["left"] + w["right"], w["join"], 3, stride=2)
        self.hidden = nn.Linear(w["join"] * 16, w["hidden"])
        self.fc = nn.Linear(w["hidden"], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(torch.cat((self.left(x), self.right(x)), 1))
        return self.fc(torch.sigmoid(self.hidden(torch.flatten(torch.tanh(self.join(x)), 1))))


class Shuffled(nn.Module):
    """A channel shuffle between convolutions in two groups, as ShuffleNet's, beside a plain convolution."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        w = {"first": 8, "second": 8, "last": 6, **(widths or {})}
        self.stem = nn.Conv2d(1, 4, 3)
        self.first = nn.Conv2d(4, w["first"], 1, groups=2)
        self.second = nn.Conv2d(w["first"], w["second"], 3, groups=2)
        self.last = nn.Conv2d(w["second"], w["last"], 1)
        self.fc = nn.Linear(w["last"], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(F.relu(self.stem(x))))
        n, c, h, wide = x.shape
        x = x.view(n, 2, c // 2, h, wide).transpose(1, 2).reshape(n, c, h, wide)
        return self.fc(F.relu(self.last(F.relu(self.second(x)))).mean((2, 3)))


class Split(nn.Module):
    """ShuffleNetV2's split: half of the channels pass by."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.work = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, (widths or {}).get("last", 6), 1)
        self.fc = nn.Linear(self.last.out_channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        passing, worked = F.relu(self.stem(x)).chunk(2, 1)
        joined = torch.cat((passing, F.relu(self.work(worked))), 1)
        return self.fc(F.relu(self.last(joined)).mean((2, 3)))


class Chain(nn.Module):
    """Three convolutions and a linear layer; subclasses spoil one of them."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        w = {"a": 6, "b": 6, "c": 7, **(widths or {})}
        self.a = nn.Conv2d(1, w["a"], 3, padding=1)
        self.b = nn.Conv2d(w["a"], w["b"], 3, padding=1)
        self.c = nn.Conv2d(w["b"], w["c"], 3, padding=1)
        self.fc = nn.Linear(w["c"], 5)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Twice(Chain):
    """One module called twice."""

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return F.relu(self.c(F.relu(self.b(F.relu(self.b(x))))))


class Tied(Chain):
    """Two layers with one weight."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__(widths)
        self.d = nn.Conv2d(self.b.in_channels, self.b.out_channels, 3, padding=1)
        self.d.weight = self.b.weight

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.d(F.relu(self.b(F.relu(self.a(x))))))))


class WeightNormed(Chain):
    """A parametrized weight."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__(widths)
        self.b = nn.utils.parametrizations.weight_norm(self.b)


class Normalized(Chain):
    """Normalization over all channels between b and c."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__(widths)
        self.norm = nn.GroupNorm(1, self.b.out_channels)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.norm(self.b(F.relu(self.a(x)))))))


class SoftChannels(Chain):
    """A softmax over the channels of b, which no list of layers would tell."""

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.c(torch.softmax(self.b(F.relu(self.a(x))), 1)))


class Scaled(Chain):
    """A parameter of the network's own, one value a channel of b."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__(widths)
        self.factor = nn.Parameter(torch.rand(self.b.out_channels, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.c(F.relu(self.b(F.relu(self.a(x))) * self.factor)))


class Fixed(Chain):
    """A shape written into the code: c's six channels, times its image."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__(widths)
        self.fc = nn.Linear(7 * 144, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).view(-1, 7 * 144))


class Whole(nn.Module):
    """Weights of eight bits, multiplied out in the forward pass."""

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            values = torch.randint(-127, 127, (6, 6, 3, 3), generator=torch.Generator().manual_seed(0))
            self.register_buffer("weight", values.to(torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight.float() / 127, padding=1)

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 6, 3, padding=1)
        self.b = Whole.Conv()
        self.c = nn.Conv2d(6, (widths or {}).get("c", 7), 3, padding=1)
        self.fc = nn.Linear(self.c.out_channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))).mean((2, 3)))


class Deciding(Chain):
    """A path chosen by what the image holds."""

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if x.mean() > 0.1:
            x = F.relu(self.b(x))
        return F.relu(self.c(x))


class Plain(nn.Module):
    """A residual network whose model(widths) cannot leave blocks out; one identity, one projection shortcut."""

    def __init__(self, widths: Widths = None) -> None:
        super().__init__()
        w = {"stem": 6, "one": 5, "two": 7, "out": 8, **(widths or {})}
        self.stem = nn.Conv2d(1, w["stem"], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(w["stem"])
        self.one, self.norm1 = nn.Conv2d(w["stem"], w["one"], 3, padding=1, bias=False), nn.BatchNorm2d(w["one"])
        self.one_b, self.norm1_b = nn.Conv2d(w["one"], w["stem"], 3, padding=1), nn.BatchNorm2d(w["stem"])
        self.two, self.norm2 = nn.Conv2d(w["stem"], w["two"], 3, 2, 1), nn.BatchNorm2d(w["two"])
        self.two_b, self.norm2_b = nn.Conv2d(w["two"], w["out"], 3, padding=1), nn.BatchNorm2d(w["out"])
        self.short, self.norm_s = nn.Conv2d(w["stem"], w["out"], 1, 2), nn.BatchNorm2d(w["out"])
        self.fc = nn.Linear(w["out"], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.norm1_b(self.one_b(F.relu(self.norm1(self.one(x))))) + x)
        branch = self.norm2_b(self.two_b(F.relu(self.norm2(self.two(x)))))
        branch += self.norm_s(self.short(x))
        return self.fc(F.relu(branch).mean((2, 3)))
