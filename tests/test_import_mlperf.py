"""rig import mlperf on two genuine runs: the same watts and joules as the published tables; damage is named."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rig import cli
from rig.errors import BadInputError
from rig.mlperf import power_run
from rig.store.store import Store

GOLDEN = Path(__file__).parent / "golden" / "mlperf"
RUNS = ("mobilenet-v1-0.25-128-non-quantized", "mobilenet-v2-1.0-224-non-quantized")
TABLE = Path(__file__).parent.parent / "rig" / "devices" / "data" / "rpi4_tflite.jsonl.gz"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    return tmp_path


def copy_of(name: str, to: Path) -> Path:
    folder = to / name
    shutil.copytree(GOLDEN / name, folder)
    return folder


def rig(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def published(name: str) -> dict[str, Any]:
    with gzip.open(TABLE, "rt") as rows:
        found = [row for row in map(json.loads, rows) if row["network"] == name and row["dtype"] == "float32"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", RUNS)
def test_watts_and_joules_are_those_of_the_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = rig(capsys, "import", "mlperf", str(GOLDEN / name), "--device", "rpi4")
    assert code == 0, said
    row, network = published(name), said["network"]
    assert network["power_w"]["value"] == pytest.approx(row["power_w"], rel=1e-3)
    assert network["energy_j"]["value"] == pytest.approx(row["energy_j"], rel=1e-3)
    assert network["idle_power_w"]["value"] == pytest.approx(row["idle_power_w"], rel=1e-3)
    assert network["latency_s"]["value"] == pytest.approx(row["latency_s"], rel=1e-3)
    assert network["latency_s"]["lo"] is None  # loadgen logs no scatter of the mean
    assert network["power_w"]["lo"] < network["power_w"]["value"] < network["power_w"]["hi"]
    assert (said["kind"], said["device"]["name"], said["device"]["boundary"]) == ("imported", "rpi4", "wall")
    assert (said["clocks"]["client_zone_s"], said["clocks"]["server_zone_s"]) == (0.0, 0.0)
    assert abs(said["clocks"]["offset_s"]) < 0.01
    assert said["clocks"]["uncertainty_s"] < 0.02
    stored = Store().open_run(said["run_id"])
    record = next(stored.measurements())
    assert (record["kind"], len(record["trace"]["times_s"])) == ("imported", len(_spl(name)))
    assert stored.manifest["state"] == "done"


def _spl(name: str) -> list[str]:
    return (GOLDEN / name / "spl.txt").read_text().splitlines()


def test_the_same_in_the_folders_of_a_submission_and_in_words(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = store / RUNS[0]
    for name in ("run_1", "power"):
        (folder / name).mkdir(parents=True)
    for path in (GOLDEN / RUNS[0]).iterdir():
        place = "power" if path.name.startswith(("client", "server")) else "run_1"
        shutil.copy(path, folder / place / path.name)
    assert cli.main(["import", "mlperf", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "IMPORTED, at the wall" in out
    assert "5.91" in out
    assert "from 9 messages" in out


def test_an_imported_run_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = rig(capsys, "import", "mlperf", str(GOLDEN / RUNS[1]))
    code, drawn = rig(capsys, "report", said["run_id"])
    assert code == 0, drawn
    text = Path(drawn["artifacts"]["report"][0]).read_text()
    assert "imported" in text.lower()
    assert "rejected" not in text
    assert "0, off" not in text  # threads are not in the logs


def shifted(text: str, hours: int) -> str:
    """Stamps of spl.txt and server.log as a server in another zone would have written them."""
    for hour in range(24):
        text = text.replace(f" {hour:02d}:", f" @{(hour + hours) % 24:02d}:")
    return text.replace("@", "")


def test_a_server_in_another_zone_is_lined_up_by_its_log(store: Path) -> None:
    before = power_run.read(GOLDEN / RUNS[1])  # 07:01 to 07:23: five hours later is the same day
    folder = copy_of(RUNS[1], store)
    for name in ("spl.txt", "server.log"):
        (folder / name).write_text(shifted((folder / name).read_text(), 5))
    after = power_run.read(folder)
    assert after.clocks.server_zone_s == 5 * 3600
    assert after.running_w == before.running_w
    for name in ("server.log", "client.log"):
        (folder / name).unlink()
    with pytest.raises(BadInputError, match="0 readings while loadgen ran") as error:
        power_run.read(folder)
    assert "time zones come from" in str(error.value.fix)


def test_without_the_json_files_one_clock_is_assumed_and_said(store: Path) -> None:
    folder = copy_of(RUNS[0], store)
    for name in ("client.json", "server.json", "client.log", "server.log"):
        (folder / name).unlink()
    run = power_run.read(folder)
    assert "one clock and zone" in run.clocks.how
    assert run.clocks.uncertainty_s == 0.5
    assert sum(run.running_w) / len(run.running_w) == pytest.approx(published(RUNS[0])["power_w"], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("spl.txt", "23:45:00.237,Watts,", "23:45:00.237,Wats,", r"spl.txt, line \d+: no field Watts"),
        ("spl.txt", "02-22-2022 23:45:00.237", "02-22-2022 22:45:00.237", r"spl.txt, line \d+: time goes back"),
        ("mlperf_log_detail.txt", '"power_begin"', '"power_begins"', "no power_begin: not a power run"),
        ("mlperf_log_detail.txt", '{"key": "sut_name"', '{"key": sut', r"detail.txt, line \d+: not an MLLOG"),
        ("mlperf_log_detail.txt", '"effective_scenario", "value": "SingleStream"',
         '"effective_scenario", "value": "Offline"', "scenario Offline"),
        ("client.json", '"messages"', '"messages', r"client.json, line \d+: messages"),
        ("server.json", "mlcommons/power client v3", "other", "tell of different messages"),
        ("server.log", "23:29:37,031", "23:36:37,031", "s apart beyond the zone"),
    ],
)  # fmt: skip
def test_damage_is_named_with_file_and_line(store: Path, name: str, old: str, new: str, words: str) -> None:
    folder = copy_of(RUNS[0], store)
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadInputError, match=words):
        power_run.read(folder)


def test_what_is_missing_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_of(RUNS[0], store)
    (folder / "spl.txt").unlink()
    code, said = rig(capsys, "import", "mlperf", str(folder))
    assert (code, "no spl.txt" in said["error"]["message"]) == (2, True)
    code, said = rig(capsys, "import", "mlperv", str(folder))
    assert (code, said["error"]["fix"]) == (2, "known: mlperf")
    code, said = rig(capsys, "import", "mlperf", str(folder / "nothing"))
    assert (code, "not a folder" in said["error"]["message"]) == (2, True)
    assert Store().runs() == []
