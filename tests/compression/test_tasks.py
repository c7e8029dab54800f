import gzip

import compression_case as case
import pytest
import torch

from rig.compression import datasets, tasks
from rig.compression.baseline import trained_baseline
from rig.compression.training import TrainingPlan
from rig.errors import BadInputError, ModelError

needs_fashion = pytest.mark.skipif(
    not datasets.DEBIAN_FOLDER.is_dir(), reason="install the Debian package dataset-fashion-mnist"
)


@needs_fashion
def test_fashion_mnist_has_its_splits_and_a_stratified_steering_part():
    splits = datasets.fashion_mnist()
    assert [len(splits[name].targets) for name in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    assert torch.bincount(splits["val"].targets).tolist() == [500] * 10
    assert splits["train"].inputs.shape[1:] == (1, 28, 28)


@needs_fashion
def test_a_damaged_file_is_named(tmp_path, monkeypatch):
    name = "t10k-labels-idx1-ubyte"
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"))
    monkeypatch.setenv("RIG_DATA", str(tmp_path))
    with pytest.raises(BadInputError, match=f"{name}: SHA-256"):
        datasets._read_idx(name)


def test_digits_are_split_once_for_all():
    first, second = datasets.digits(), datasets.digits()
    assert torch.equal(first["test"].targets, second["test"].targets)
    assert sum(len(s.targets) for s in first.values()) == 1797


def test_training_batches_differ_by_pass_and_repeat_by_seed():
    images = datasets.Images(torch.randn(64, 1, 8, 8), torch.arange(64))
    batches = tasks.Augmented(images, 16, flip=True, shift=2)
    torch.manual_seed(1)
    first = [y.tolist() for _, y in batches]
    second = [y.tolist() for _, y in batches]
    torch.manual_seed(1)
    assert first == [y.tolist() for _, y in batches]
    assert first != second
    assert next(iter(batches))[0].shape == (16, 1, 8, 8)


@pytest.mark.parametrize("name", ["mnist", "tasks", ""])
def test_unknown_tasks_list_the_known(name):
    with pytest.raises(BadInputError, match="unknown task") as error:
        tasks.load_task(name)
    assert "fashion-mnist" in error.value.fix


def test_a_task_file_that_lacks_a_function_says_which(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def model(widths=None): ...\ndef loss(a, b): ...\n")
    with pytest.raises(ModelError, match="lacks loaders, evaluate"):
        tasks.load_task(str(path))


def test_a_task_file_with_an_error_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import not_there\n")
    with pytest.raises(ModelError, match="not_there"):
        tasks.load_task(str(path))


def test_a_task_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match="does not exist"):
        tasks.load_task(str(tmp_path / "none.py"))


def test_an_empty_split_is_an_error(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def model(widths=None): ...\ndef loss(a, b): ...\ndef loaders(split): return []\ndef evaluate(m, s): ...\n"
    )
    with pytest.raises(ModelError, match="no batch"):
        tasks.load_task(str(path))


def test_a_loader_over_data_without_a_length_is_gone_through_and_draws_nothing(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.randn(3), torch.tensor(0)) for _ in range(6)])

    task = tasks.load_task("digits", "resnet8")._replace(
        loaders=lambda split: torch.utils.data.DataLoader(Stream(), batch_size=2)
    )
    assert tasks.batches_per_epoch(task) == 3
    workplace = case.workplace_in(tmp_path, task)
    before = torch.get_rng_state()
    assert workplace.per_epoch == 3
    assert torch.equal(torch.get_rng_state(), before)  # what is drawn next does not depend on who asked first


def test_what_is_no_iterable_is_said():
    with pytest.raises(ModelError, match="gives int"):
        tasks.batches_per_epoch(tasks.load_task("digits", "resnet8")._replace(loaders=lambda split: 3))


def test_a_baseline_belongs_to_the_text_of_its_task_file(tmp_path):
    path = tmp_path / "mine.py"
    text = """import torch
def model(widths=None): return torch.nn.Linear(2, 1)
def loss(outputs, targets): return outputs.mean()
def loaders(split): return [(torch.ones(1, 2), torch.ones(1))]
def evaluate(model, split): return 0.5
"""
    trained = []
    for written in (text, text, text.replace("mean", "sum"), text):
        path.write_text(written)
        trained_baseline(tasks.load_task(str(path)), TrainingPlan(1), tmp_path / "baselines", trained.append)
    assert len(trained) == 2
