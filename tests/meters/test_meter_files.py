"""Files a meter depends on: a log that grows, rotates and is cut short; profiles of instruments, right and wrong."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rig.errors import BadInputError, DeviceSetupError, ProfileError, TransientDeviceError
from rig.meters import make_meter
from rig.meters.instrument_files import instrument_names, load_instrument
from rig.meters.tail import Tail
from rig.profiles import MeterSettings, load_profile
from tests.fakes.scpi_instrument import profile_text

NO_WAIT = threading.Event()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "power.csv"
    path.write_text("time,watts\n1.0,5.0\n2.0,5.1\n")
    return path


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    (tmp_path / "config" / "instruments").mkdir(parents=True)
    (tmp_path / "config" / "devices").mkdir()
    return tmp_path / "config"


def log_settings(path: Path, **fields: object) -> MeterSettings:
    told = {"kind": "log", "path": str(path), "rate_hz": 20.0, "boundary": "wall", **fields}
    return MeterSettings.model_validate(told)


def test_a_tail_gives_whole_lines_once(log: Path) -> None:
    tail = Tail(log)
    first, last = tail.to_end()
    assert first is not None
    assert last is not None
    assert (first.text, last.text, last.number) == ("time,watts", "2.0,5.1", 3)
    append(log, "3.0,5.2\n4.0,")
    assert [line.text for line in tail.new_lines()] == ["3.0,5.2"]
    assert tail.new_lines() == []
    append(log, "5.3\r\n")
    assert [(line.number, line.text) for line in tail.new_lines()] == [(5, "4.0,5.3")]
    tail.close()


def test_a_tail_survives_rotation_and_truncation(log: Path) -> None:
    tail = Tail(log)
    tail.to_end()
    log.rename(log.with_suffix(".1"))
    append(log.with_suffix(".1"), "3.0,5.2\n")
    assert [line.text for line in tail.new_lines()] == ["3.0,5.2"]  # the name is free: the old file goes on
    append(log.with_suffix(".1"), "4.0,5.3\n")
    log.write_text("time,watts\n5.0,5.4\n")
    assert [line.text for line in tail.new_lines()] == ["4.0,5.3", "time,watts", "5.0,5.4"]
    log.write_text("time,watts\n")  # same file, shorter
    assert [line.text for line in tail.new_lines()] == ["time,watts"]
    append(log, "6.0,5.5\n")
    assert [line.text for line in tail.new_lines()] == ["6.0,5.5"]
    tail.close()


def test_a_file_without_lines_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "core"
    binary.write_bytes(b"x" * 70000)
    with pytest.raises(DeviceSetupError, match="not a log of readings"):
        make_meter(log_settings(binary)).open()


def test_a_log_meter_reads_what_comes_and_only_that(log: Path) -> None:
    meter = make_meter(log_settings(log))
    meter.open()
    assert meter.samples(NO_WAIT) == []
    append(log, "3.0,5.2\n4.0,5.3\n5.0,")
    assert [(one.stamp_s, one.power_w) for one in meter.samples(NO_WAIT)] == [(3.0, 5.2), (4.0, 5.3)]
    assert meter.samples(NO_WAIT) == []  # never the last value again
    log.write_text("time,watts\n9.0,5.9\n")  # the logger began anew, header and all
    assert [(one.stamp_s, one.power_w) for one in meter.samples(NO_WAIT)] == [(9.0, 5.9)]
    assert [entry["text"] for entry in meter.evidence()["meter_answers"]][-1] == "9.0,5.9"
    meter.close()


def test_a_log_meter_names_file_line_and_field(log: Path) -> None:
    meter = make_meter(log_settings(log))
    meter.open()
    append(log, "3.0,5.2\n4.0,--\n")
    with pytest.raises(TransientDeviceError, match=r"power.csv, line 5: field watts: '--' is no number: '4.0,--'"):
        meter.samples(NO_WAIT)
    meter.close()
    append(log, "\n")
    state, reason, fix = make_meter(log_settings(log, power_column="w")).probe()
    assert state == "absent"
    assert "line 1: no column 'w' among time, watts" in reason
    assert fix
    state, reason, fix = make_meter(log_settings(log.with_name("none.csv"))).probe()
    assert (state, "No such file" in reason) == ("absent", True)


@pytest.mark.parametrize("name", instrument_names())
def test_shipped_instruments_are_whole(name: str, config: Path) -> None:
    instrument = load_instrument(name).with_options({})
    assert instrument.manual
    assert "not tried" in instrument.tried
    assert "{" not in " ".join((instrument.commands.query, *instrument.commands.setup))
    assert 0 < instrument.sampling.gain_uncertainty < 0.05


def test_an_instrument_of_ones_own_takes_the_shipped_ones_place(config: Path) -> None:
    (config / "instruments" / "rigol-dp800.toml").write_text(profile_text(rate_hz=7.0))
    assert load_instrument("rigol-dp800").sampling.rate_hz == 7.0
    assert load_instrument("rs-hmc8015").sampling.rate_hz == 10.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("query = ", "qery = "), r"line 13: field commands.qery: unknown field"),
        (("step_w = 0.0001", "step_w = 'fine'"), r"line 23: field sampling.step_w: Input should be a valid number"),
        (("'^ACME,PM1,'", "'^(ACME'"), r"line 5: field identify: not a regular expression"),
        (("{rate}", "{range}"), "commands leave range open"),
        (("update_s = 0.0", "update_s = 0.1"), "old values would be read twice"),
        (("[link]", "[link"), "not valid TOML"),
    ],
)
def test_a_wrong_instrument_profile_names_file_line_and_field(
    config: Path, change: tuple[str, str], words: str
) -> None:
    text = profile_text()
    assert change[0] in text
    (config / "instruments" / "mine.toml").write_text(text.replace(*change))
    with pytest.raises(ProfileError, match=words) as error:
        load_instrument("mine")
    assert "mine.toml" in error.value.message


def test_unknown_names_and_options_give_the_nearest(config: Path) -> None:
    with pytest.raises(BadInputError, match="did you mean yokogawa-wt300"):
        load_instrument("yokogawa-wt310")
    with pytest.raises(BadInputError, match="no option 'chanel'") as error:
        load_instrument("rigol-dp800").with_options({"chanel": 2})
    assert error.value.fix == "did you mean channel?"
    with pytest.raises(BadInputError, match="cannot stand in a command"):
        load_instrument("rigol-dp800").with_options({"channel": "1;*RST"})
    assert load_instrument("rigol-dp800").with_options({"channel": 2}).commands.query == ":MEASure:ALL? CH2"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('kind = "scpi"\nresource = "ASRL1::INSTR"', 'line 1: field meter: kind = "scpi" needs instrument'),
        ('kind = "log"\npath = "x"\nrate_hz = 1.0', "needs boundary"),
        ('kind = "log"\npath = "x"\nrate = 1.0', "line 4: field meter.rate: unknown field"),
        ('kind = "usb"', "line 2: field meter.kind"),
    ],
)
def test_a_wrong_meter_table_names_file_line_and_field(config: Path, table: str, words: str) -> None:
    (config / "devices" / "bench.toml").write_text(f"[meter]\n{table}\n")
    with pytest.raises(ProfileError, match=words) as error:
        load_profile("bench")
    assert "bench.toml" in error.value.message
