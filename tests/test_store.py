"""The store survives kills, full disks, second processes and damage, and loses nothing in silence."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from device_agents.records import Configuration
from rig.errors import BadInputError, StoreError
from rig.store.store import RunInfo, Store, capture_environment

ROOT = Path(__file__).resolve().parent.parent


def record(identity="a-1", **changes):
    return {
        "format_version": 1,
        "id": identity,
        "subject": "conv",
        "fps": None,
        "started_utc": "2026-01-01T00:00:00.000Z",
        "phases": [{"name": "window", "t0_s": 0.0, "t1_s": 1.0, "count": 3, "latency_s": [0.1, 0.2, 1 / 3]}],
        "trace": {
            "source": "virtual",
            "rail": "board",
            "boundary": "board_input",
            "clock": "sensor",
            "times_s": [0.0, 0.1, 0.2],
            "power_w": [3.0, 3.1, 1 / 7],
            "energy_counter_j": None,
        },
        **changes,
    }


def info(**changes):
    fields = {
        "device": "pi4",
        "serial": "s1",
        "runtime": "virtual",
        "runtime_version": "1",
        "threads": 1,
        "spinning": False,
        "power_mode": "",
        "boundary": "board_input",
    }
    return RunInfo(Configuration(**{**fields, **changes}), "abc", "2026-01-01T00:00:00.000Z", "simulated")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "home")


def run_python(code, *args):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_ids_count_per_command_and_latest(store):
    ids = [store.new_run(command, "pi4").id for command in ("calibrate", "measure", "calibrate", "optimize")]
    assert ids == ["c-0001", "m-0001", "c-0002", "o-0001"]
    assert store.latest().id == "o-0001"
    assert store.latest("calibrate").id == "c-0002"
    assert store.latest("calibrate", device="local") is None
    assert [m["id"] for m in store.runs()] == ids


def test_records_come_back_bit_for_bit(store):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record())
    run.add_measurement(record("a-2", trace=None, kernels=None))
    again = store.open_run(run.id)
    assert list(again.measurements()) == [record(), record("a-2", trace=None, kernels=None)]
    assert again.measurement("a-1") == record()
    light = next(again.measurements(arrays=False))
    assert "times_s" not in light["trace"]


def test_adding_twice_changes_nothing(store):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record())
    run.add_measurement(record(subject="other"))
    assert [r["subject"] for r in run.measurements()] == ["conv"]


def test_two_openings_of_one_run_see_each_other(store):
    one = store.new_run("calibrate", "pi4")
    two = Store(store.root).open_run(one.id)
    one.add_measurement(record("a-1"))
    two.add_measurement(record("a-1"))
    two.add_measurement(record("a-2"))
    assert one.measurement_ids() == {"a-1", "a-2"}
    assert len(list(one.measurements())) == 2


@pytest.mark.parametrize("keep", [1, 40, -2])
def test_a_torn_last_line_is_moved_aside_and_reported(store, keep):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a-1"))
    run.add_measurement(record("a-2"))
    path = run.path / "measurements.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:keep])
    again = Store(store.root).open_run(run.id)
    assert again.measurement_ids() == {"a-1"}
    assert again.problems[0]["code"] == "torn-line"
    aside = next(run.path.glob("torn-*.jsonl"))
    assert aside.read_bytes() == second[:keep]
    assert again.events()[-1]["event"] == "torn-line"
    again.add_measurement(record("a-2"))
    assert [r["id"] for r in again.measurements()] == ["a-1", "a-2"]


def test_a_whole_line_without_newline_is_kept(store):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a-1"))
    path = run.path / "measurements.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    again = store.open_run(run.id)
    again.add_measurement(record("a-2"))
    assert [r["id"] for r in again.measurements()] == ["a-1", "a-2"]
    assert again.problems == []


def test_a_damaged_line_in_the_middle_is_reported(store):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a-1"))
    with (run.path / "measurements.jsonl").open("ab") as file:
        file.write(b'{"id": 5}\n\xff\xfe garbage\n')
    run.add_measurement(record("a-2"))
    again = store.open_run(run.id)
    assert [r["id"] for r in again.measurements()] == ["a-1", "a-2"]
    assert [p["code"] for p in again.problems] == ["damaged-line", "damaged-line"]


def test_a_damaged_trace_is_an_error_that_names_it(store):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a-1"))
    (run.path / "traces" / "a-1.npz").write_bytes(b"not an archive")
    with pytest.raises(StoreError, match="a-1"):
        run.measurement("a-1")


def test_index_is_rebuilt_from_the_folders(store):
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a-1"))
    store.new_run("measure", "local")
    (store.root / "index.sqlite").unlink()
    fresh = Store(store.root)
    assert [m["id"] for m in fresh.runs()] == ["c-0001", "m-0001"]
    assert fresh.rebuild_index() == 2
    assert fresh.find_measurements("conv") == [("c-0001", "a-1")]


def test_a_damaged_index_is_reported_and_the_folders_are_used(store):
    store.new_run("calibrate", "pi4")
    for path in store.root.glob("index.sqlite*"):
        path.unlink()
    (store.root / "index.sqlite").write_bytes(b"no database at all" * 100)
    fresh = Store(store.root)
    assert [m["id"] for m in fresh.runs()] == ["c-0001"]
    assert fresh.problems[0]["code"] == "index"
    fresh.rebuild_index()
    assert [m["id"] for m in Store(store.root).runs()] == ["c-0001"]


def test_folders_deleted_by_hand_leave_the_index(store):
    run = store.new_run("calibrate", "pi4")
    for path in sorted(run.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.path.rmdir()
    assert store.runs() == []
    assert store.latest() is None


def test_a_second_configuration_is_refused_by_name(store):
    run = store.new_run("calibrate", "pi4")
    run.set_info(info())
    store.open_run(run.id).set_info(info())
    with pytest.raises(BadInputError, match="threads was 1, is now 4"):
        run.set_info(info(threads=4))
    assert store.open_run(run.id).info == info()


def test_manifest_update_keeps_what_others_wrote(store):
    run = store.new_run("calibrate", "pi4", argv=["rig", "calibrate"], seed=3)
    other = store.open_run(run.id)
    other.update(state="done")
    run.update(rows=5)
    manifest = store.open_run(run.id).manifest
    assert (manifest["state"], manifest["rows"], manifest["seed"]) == ("done", 5, 3)
    assert manifest["environment"]["libraries"]["numpy"]


def test_names_cannot_leave_the_folder(store):
    run = store.new_run("calibrate", "pi4")
    with pytest.raises(ValueError, match="inside"):
        run.write_json("../other.json", {})
    with pytest.raises(ValueError, match="measurement id"):
        run.add_measurement(record("../x"))
    with pytest.raises(BadInputError):
        store.model_folder("../x")
    run.write_json("artifacts/x.json", {"a": 1})
    assert run.read_json("artifacts/x.json") == {"a": 1}


def test_unknown_run_names_the_known(store):
    store.new_run("calibrate", "pi4")
    with pytest.raises(BadInputError, match="c-0001"):
        store.open_run("c-0009")
    with pytest.raises(BadInputError):
        store.open_run("../../etc")


def test_newer_format_is_refused(store):
    run = store.new_run("calibrate", "pi4")
    run.update(format_version=99)
    with pytest.raises(StoreError, match="format version 99"):
        store.open_run(run.id)


def test_disk_full_keeps_nothing_half_written(store):
    """RLIMIT_FSIZE stands in for a full disk: writes beyond it fail as they would there."""
    run = store.new_run("calibrate", "pi4")
    run.add_measurement(record("a-1"))
    size = (run.path / "measurements.jsonl").stat().st_size
    done = run_python(
        """
        import resource, sys
        from rig.errors import StoreError
        from rig.store.store import Store
        run = Store(sys.argv[1]).open_run("c-0001")
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        try:
            run.add_measurement({"id": "big", "phases": [], "trace": None, "note": "x" * 5000})
        except StoreError as error:
            print("refused:", error.message, "| fix:", error.fix)
        """,
        store.root,
        size + 100,
    )
    assert "refused: storing measurement big" in done.stdout, done.stderr
    assert "free some space" in done.stdout
    assert (run.path / "measurements.jsonl").stat().st_size == size
    again = store.open_run(run.id)
    assert again.measurement_ids() == {"a-1"}
    assert again.problems == []
    assert not list(run.path.rglob("*big*"))


def test_disk_full_while_a_trace_is_written(store):
    run = store.new_run("calibrate", "pi4")
    done = run_python(
        """
        import random, resource, sys
        from rig.errors import StoreError
        from rig.store.store import Store
        run = Store(sys.argv[1]).open_run("c-0001")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        values = [random.random() for _ in range(5000)]
        trace = {"source": "s", "rail": "r", "boundary": "b", "clock": "c", "times_s": values, "power_w": values}
        try:
            run.add_measurement({"id": "big", "phases": [], "trace": trace})
        except StoreError as error:
            print("refused:", error.message)
        """,
        store.root,
    )
    assert "refused: storing measurement big" in done.stdout, done.stderr
    assert not list(run.path.rglob("*big*"))
    assert store.open_run(run.id).measurement_ids() == set()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_names_the_fix(store):
    store.root.mkdir()
    store.root.chmod(0o500)
    with pytest.raises(StoreError, match="Permission") as caught:
        store.new_run("calibrate", "pi4")
    assert "RIG_HOME" in caught.value.fix


def test_a_root_that_is_a_file_is_a_store_error(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(StoreError, match="making a run folder"):
        Store(tmp_path / "home").new_run("calibrate", "pi4")


def test_processes_allocate_distinct_ids(store):
    code = """
        import sys
        from rig.store.store import Store
        for _ in range(8):
            print(Store(sys.argv[1]).new_run("measure", "local").id)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(store.root)]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ids = [line for worker in workers for line in worker.communicate(timeout=60)[0].split()]
    assert len(ids) == 24
    assert len(set(ids)) == 24
    assert len(store.runs()) == 24
    assert not list((store.root / "runs").glob(".new-*"))


def test_two_processes_append_to_one_run(store):
    run = store.new_run("calibrate", "pi4")
    code = """
        import sys
        from rig.store.store import Store
        run = Store(sys.argv[1]).open_run("c-0001")
        for number in range(20):
            run.add_measurement({"id": f"m-{number}", "phases": [], "trace": None, "note": "x" * 3000})
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(store.root)]
    workers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        _, problems = worker.communicate(timeout=60)
        assert worker.returncode == 0, problems
    lines = (run.path / "measurements.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(f"m-{n}" for n in range(20))


def test_environment_names_versions_without_importing_them():
    done = run_python(
        """
        import sys
        from rig.store.store import capture_environment
        capture_environment()
        print([name for name in ("torch", "onnxruntime", "sklearn", "matplotlib") if name in sys.modules])
        """
    )
    assert done.stdout.strip() == "[]", done.stderr
    assert capture_environment()["rig"]
