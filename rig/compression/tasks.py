"""A task: data, loss, metric and the network that is to be compressed; built in, or a user's Python file.

A user's file defines ``model(widths=None)`` (or a ``model()``, whose layers are resized then), ``loss(outputs,
targets)``, ``loaders(split)`` (an iterable of (inputs, targets) batches for split train, val or test) and
``evaluate(model, split)`` (a fraction, higher is better): see docs/writing-a-task.md and examples/.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rig.compression import datasets, networks
from rig.compression.cutting.plain_model import builder
from rig.errors import BadInputError, ModelError

Batches = Iterable[tuple[Tensor, Tensor]]
BATCH = 128


class Task(NamedTuple):
    """What the loop needs of a task; ``input_shape`` has no batch dimension.

    ``logits``: outputs are logits (N, classes), so that labels can be smoothed and a narrow network can be
    taught by the one it came from. ``batch``: images of a training step, of a built-in task. ``text``: digest of a
    task file, by which an edited file is told from what it was (what it imports is not looked at).
    """

    name: str
    model_name: str
    model: Callable[..., nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    loaders: Callable[[str], Batches]
    evaluate: Callable[[nn.Module, str], float]
    input_shape: tuple[int, ...]
    test_count: int
    logits: bool = False
    batch: int = BATCH
    text: str = ""


BUILT_IN = {"fashion-mnist": datasets.fashion_mnist, "digits": datasets.digits}


class Augmented:
    """Shuffled batches of a split held in memory; training images are flipped and shifted by up to two pixels.

    Each pass draws from torch's global generator, so that a seeded run repeats.
    """

    def __init__(self, images: datasets.Images, batch: int, flip: bool, shift: int) -> None:
        self.images = images
        self.batch = batch
        self.flip = flip
        self.shift = shift

    def __len__(self) -> int:
        return len(self.images.targets) // self.batch

    def __iter__(self):
        order = torch.randperm(len(self.images.targets))
        for i in range(len(self)):
            part = order[i * self.batch : (i + 1) * self.batch]
            yield self._augment(self.images.inputs[part]), self.images.targets[part]

    def _augment(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        if self.flip:
            flipped = torch.rand(n) < 0.5
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        if self.shift:
            edge = float(x.min())
            padded = F.pad(x, (self.shift,) * 4, value=edge)
            rows = torch.randint(0, 2 * self.shift + 1, (n, 1)) + torch.arange(height)
            columns = torch.randint(0, 2 * self.shift + 1, (n, 1)) + torch.arange(width)
            batch_index = torch.arange(n)[:, None, None]
            x = padded[batch_index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last)


class InOrder:
    """Batches of a split in file order, as they are."""

    def __init__(self, images: datasets.Images, batch: int) -> None:
        self.images = images
        self.batch = batch

    def __len__(self) -> int:
        return -(-len(self.images.targets) // self.batch)

    def __iter__(self):
        return iter(zip(self.images.inputs.split(self.batch), self.images.targets.split(self.batch), strict=True))


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Share of correct answers; restores the model's training flag. Raises ModelError for no images."""
    was_training = model.training
    model.eval()
    right = seen = 0
    with torch.inference_mode():
        for inputs, targets in batches:
            outputs = model(inputs.contiguous(memory_format=torch.channels_last))
            right += int((outputs.argmax(1) == targets).sum())
            seen += len(targets)
    model.train(was_training)
    if not seen:
        raise ModelError("the split to evaluate holds no images", "check loaders(split) of the task")
    return right / seen


def load_task(name: str, model_name: str | None = None, batch: int | None = None) -> Task:
    """A built-in task by name with one of our networks and a batch size, or a user's task file.

    Raises BadInputError for an unknown name, ModelError for a file that misses or breaks part of the contract.
    """
    if name in BUILT_IN:
        return _built_in(name, model_name or "resnet20", batch or BATCH)
    path = Path(name)
    if path.suffix == ".py":
        if batch is not None:
            raise BadInputError(
                "a task file says itself how large its batches are", "leave --batch out, change loaders()"
            )
        return _from_file(path)
    raise BadInputError(
        f"unknown task {name!r}", f"known: {', '.join(BUILT_IN)}; or the path of a task file ending in .py"
    )


@cache
def _splits(name: str) -> dict[str, datasets.Images]:
    return BUILT_IN[name]()


def _built_in(name: str, model_name: str, batch: int) -> Task:
    splits = _splits(name)
    count = len(splits["train"].targets)
    if batch > count:
        raise BadInputError(f"a batch of {batch} images is more than {name} has to train on: {count}", "lower --batch")
    flip = name == "fashion-mnist"

    def model(widths: Mapping[str, int] | None = None) -> nn.Module:
        return networks.build(model_name, widths=widths)

    def loaders(split: str) -> Batches:
        if split == "train":
            return Augmented(splits["train"], batch, flip=flip, shift=2 if flip else 1)
        return InOrder(splits[split], 500)

    model()  # an unknown network is said before anything is trained
    return Task(
        name=name,
        model_name=model_name,
        model=model,
        loss=F.cross_entropy,
        loaders=loaders,
        evaluate=lambda net, split: accuracy(net, InOrder(splits[split], 500)),
        input_shape=tuple(splits["val"].inputs.shape[1:]),
        test_count=len(splits["test"].targets),
        logits=True,
        batch=batch,
    )


def _from_file(path: Path) -> Task:
    if not path.is_file():
        raise BadInputError(f"task file {path} does not exist", "give the path of a Python file; see examples/")
    spec = importlib.util.spec_from_file_location(f"rig_task_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"task file {path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, AttributeError) as error:
        raise ModelError(f"task file {path}: {type(error).__name__}: {error}") from error
    missing = [f for f in ("model", "loss", "loaders", "evaluate") if not callable(getattr(module, f, None))]
    if missing:
        raise ModelError(f"task file {path} lacks {', '.join(missing)}()", "see docs/writing-a-task.md")
    first = next(_batches(module.loaders, "val", path.stem), None)
    if first is None:
        raise no_batch(path.stem, "val")
    shape = tuple(first[0].shape[1:])
    count = sum(len(targets) for _, targets in _batches(module.loaders, "test", path.stem))
    return Task(
        name=path.stem,
        model_name=path.stem,
        model=builder(module.model, shape),
        loss=module.loss,
        loaders=module.loaders,
        evaluate=_scored(path.stem, module.evaluate),
        input_shape=shape,
        test_count=count,
        logits=bool(getattr(module, "logits", False)),
        text=hashlib.sha256(path.read_bytes()).hexdigest()[:12],
    )


def checked(batch: Any, split: str, name: str) -> tuple[Tensor, Tensor]:
    """A batch of ``loaders(split)`` of the task ``name`` as (inputs, targets); raises ModelError for anything else."""
    say = f"loaders({split!r}) of the task {name} yields"
    fix = "it must yield pairs of tensors (inputs, targets), the batch first: see docs/writing-a-task.md"
    if not isinstance(batch, tuple | list):
        raise ModelError(f"{say} {type(batch).__name__}", fix)
    if len(batch) != 2 or not all(isinstance(part, Tensor) and part.dim() for part in batch):
        raise ModelError(f"{say} ({', '.join(type(part).__name__ for part in batch)})", fix)
    inputs, targets = batch
    if not len(inputs) or len(inputs) != len(targets):
        raise ModelError(f"{say} {len(inputs)} inputs with {len(targets)} targets", fix)
    if inputs.dim() == 4 and not inputs.is_floating_point():
        raise ModelError(f"{say} images of {str(inputs.dtype).removeprefix('torch.')}", "make them float32, normalized")
    return inputs, targets


def batches_per_epoch(task: Task, batches: Any = None) -> int:
    """Batches in a pass over the training data; raises ModelError for none. ``batches``: what the loader gave."""
    given = task.loaders("train") if batches is None else batches
    try:
        count = len(given)  # type: ignore[arg-type]
    except TypeError:  # none, or a DataLoader over data without a length
        try:
            passing = iter(given)
        except TypeError as error:
            said = f"loaders('train') of the task {task.name} gives {type(given).__name__}"
            raise ModelError(said, "it must give an iterable of batches: see docs/writing-a-task.md") from error
        count = sum(1 for _ in passing)
    if not count:
        raise no_batch(task.name, "train")
    return count


def no_batch(name: str, split: str) -> ModelError:
    """The error that ``loaders(split)`` of the task ``name`` yields nothing."""
    return ModelError(f"loaders({split!r}) of the task {name} yields no batch", "check the split's name and its data")


def _batches(loaders: Callable[[str], Batches], split: str, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a split, each checked; raises ModelError for what is none."""
    given = loaders(split)
    if not hasattr(given, "__iter__") and not hasattr(given, "__getitem__"):
        raise ModelError(
            f"loaders({split!r}) of the task {name} gives {type(given).__name__}", "give an iterable of batches"
        )
    for batch in given:
        yield checked(batch, split, name)


def _scored(name: str, evaluate: Callable[[nn.Module, str], Any]) -> Callable[[nn.Module, str], float]:
    """``evaluate`` as a number; raises ModelError, naming the split, for what is no fraction from 0 to 1."""

    def score(network: nn.Module, split: str) -> float:
        given = evaluate(network, split)
        try:
            value = float(given)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        if not 0.0 <= value <= 1.0:
            raise ModelError(
                f"evaluate(model, {split!r}) of the task {name} gave {given}",
                "it must give a fraction from 0 to 1, not a percentage: look for a division by no images, or for "
                "outputs that are not finite",
            )
        return value

    return score
