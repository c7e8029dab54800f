"""The Raspberry Pi 5's PMIC on a genuine reading, its truncations, and a fake vcgencmd."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agents.protocol import AgentError, now_s
from device_agents.sensors.pmic import Sensor, parse

READING = (Path(__file__).resolve().parents[1] / "golden/sensors/rpi5_pmic_read_adc.txt").read_text(encoding="ascii")

# The twelve pairs of the capture, matched by eye, and their sum from another program (awk).
PRODUCTS_W = {
    "3V7_WL_SW": 0.09368929 * 3.69977600,
    "3V3_SYS": 0.08783370 * 3.31003300,
    "1V8_SYS": 0.18054710 * 1.80512600,
    "DDR_VDD2": 0.22543980 * 1.10476100,
    "DDR_VDDQ": 0.06666720 * 0.60146460,
    "1V1_SYS": 0.17566740 * 1.11025500,
    "0V8_SW": 0.37670900 * 0.80146440,
    "VDD_CORE": 6.22421000 * 0.86173300,
    "3V3_DAC": 0.00006105 * 3.31318300,
    "3V3_ADC": 0.00036630 * 3.30677300,
    "0V8_AON": 0.00305250 * 0.80029220,
    "HDMI": 0.02417580 * 5.08664000,
}
SUM_W = 7.23982
# The lines of another board; the two that pair, and the supplies that do not.
OTHER_BOARD = """\
 3V7_WL_SW_A current(0)=0.00000000A
  VDD_CORE_A current(7)=10.87674000A
 3V7_WL_SW_V volt(8)=3.79999600V
  VDD_CORE_V volt(15)=0.89745940V
     EXT5V_V volt(24)=5.06788000V
        BATT_V volt(25)=3.01110800V
"""


def test_a_genuine_reading_pairs_by_name() -> None:
    rails = parse(READING)
    assert rails == pytest.approx(PRODUCTS_W)
    assert sum(rails.values()) == pytest.approx(SUM_W, abs=1e-5)
    assert parse(OTHER_BOARD) == pytest.approx({"3V7_WL_SW": 0.0, "VDD_CORE": 9.761433})
    assert parse("\n".join(reversed(READING.splitlines()))) == pytest.approx(PRODUCTS_W)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("     VDD_CORE_V volt(15)=0.86173300V\n", "", "VDD_CORE_A without its voltage VDD_CORE_V"),
        ("     VDD_CORE_A current(7)=6.22421000A\n", "", "VDD_CORE_V without its current VDD_CORE_A"),
        ("HDMI_A current(22)=0.02417580A", "HDMI_A current(22)=0.0241", "printed '         HDMI_A"),
        ("HDMI_A current(22)=0.02417580A", "HDMI_A current(22)=nanA", "HDMI_A = nan A"),
        ("HDMI_V volt(23)=5.08664000V", "HDMI_V volt(23)=nanV", "HDMI_V = nan V"),
        ("HDMI_V volt(23)=5.08664000V", "HDMI_V volt(23)=5.08664000A", "HDMI_V volt"),
        ("HDMI_A current(22)=0.02417580A", "HDMI_A current(22)=-0.02417580A", "HDMI_A = -0.0241758 A"),
        ("HDMI_V volt(23)=5.08664000V", "HDMI_V volt(23)=-5.08664000V", "at HDMI_V = -5.08664 V"),
        ("         HDMI_A", "      3V3_SYS_A", "3V3_SYS_A twice"),
        (READING, 'error=1 error_msg="Command not registered"\n', "Command not registered"),
        (READING, "EXT5V_V volt(24)=5.06788000V\n", "no current"),
        (READING, "", "no current"),
    ],
)
def test_a_reading_that_is_not_whole_is_an_error(old: str, new: str, problem: str) -> None:
    assert old in READING
    with pytest.raises(ValueError, match="pmic_read_adc printed") as caught:
        parse(READING.replace(old, new))
    assert problem in str(caught.value)


def test_a_battery_without_a_number_is_not_a_rail() -> None:
    assert parse(READING.replace("BATT_V volt(25)=0.00000000V", "BATT_V volt(25)=nanV")) == pytest.approx(PRODUCTS_W)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(READING)), st.booleans())
def test_a_truncated_reading_is_whole_or_an_error(cut: int, head: bool) -> None:
    try:
        rails = parse(READING[:cut] if head else READING[cut:])
    except ValueError:
        return
    assert rails == pytest.approx(PRODUCTS_W)


def fake(folder: Path, body: str) -> list[str]:
    """An executable in the place of vcgencmd; ``show(text)`` prints."""
    path = folder / "vcgencmd"
    path.write_text(
        f"#!{sys.executable} -S\nimport os, sys, time\nREADING = {READING!r}\n"
        "assert sys.argv[1:] == ['pmic_read_adc']\n"
        "def show(text):\n    os.write(1, text.encode('latin-1'))\n" + body + "\n"
    )
    path.chmod(0o755)
    return [str(path)]


def test_samples_and_a_boards_own_fit(tmp_path: Path) -> None:
    command = fake(tmp_path, "show(READING)")
    plain = Sensor({"command": command})
    assert plain.probe() == ("ok", "12 rails", "")
    plain.open()
    before_s = now_s()
    [(t_s, watts)] = plain.poll()
    assert before_s < t_s < now_s()
    assert watts == pytest.approx(SUM_W, abs=1e-5)
    assert plain.describe()["boundary"] == "rail"
    assert plain.describe()["rail"] == "sum of PMIC rails"
    assert plain.describe()["gain_uncertainty"] == 0.25
    fitted = Sensor({"command": command[0], "slope": 1.1327, "intercept_w": 0.6444})
    fitted.open()
    assert fitted.poll()[0][1] == pytest.approx(1.1327 * SUM_W + 0.6444, abs=1e-3)
    assert fitted.describe()["rail"] == "1.1327 * sum of PMIC rails + 0.6444 W"
    assert fitted.describe()["gain_uncertainty"] < 0.25
    fitted.close()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("sys.exit(2)", "exit status 2"),
        ("os.kill(os.getpid(), 9)", "exit status -9"),
        ("time.sleep(60)", "no answer in 4.0 s"),
        ("show('\\xff\\x00 garbage')", "printed"),
        ("show(READING[: READING.index('         HDMI_V')])", "HDMI_A without its voltage"),
        ("show(READING[: READING.index('HDMI_V') + 20])", "printed"),
        ("pass", "no current"),
        ("show(''.join(line + '\\n' for line in READING.splitlines() if 'HDMI' not in line))", "changed.*: HDMI"),
    ],
)
def test_a_failed_call_while_measuring_is_an_error_not_a_number(tmp_path: Path, body: str, problem: str) -> None:
    sensor = Sensor({"command": fake(tmp_path, "show(READING)")})
    sensor.open()
    fake(tmp_path, body)
    for _ in range(1 if "sleep" in body else 2):
        with pytest.raises((OSError, ValueError), match=problem):
            sensor.poll()
    sensor.close()


def test_probe_says_what_is_missing(tmp_path: Path) -> None:
    assert Sensor({"command": [str(tmp_path / "none")]}).probe()[0] == "absent"
    old = Sensor({"command": fake(tmp_path, "show('error=1 error_msg=\"Command not registered\"\\n')")})
    assert old.probe()[0] == "absent"
    assert "Command not registered" in old.probe()[1]
    with pytest.raises(AgentError, match="Command not registered"):
        old.open()
    denied = Sensor({"command": fake(tmp_path, 'show("Can\'t open device file: /dev/vcio\\n"); sys.exit(255)')}).probe()
    assert (denied[0], "usermod -aG video" in denied[2]) == ("denied", True)


@pytest.mark.parametrize("options", [{"slope": 0.0}, {"slope": "1.1"}, {"intercept_w": float("nan")}, {"slope": True}])
def test_a_bad_fit_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(AgentError, match="pmic: "):
        Sensor(options)


def test_a_current_that_is_not_there_may_read_a_little_below_zero() -> None:
    # Two steps of the coarsest channel, 8.93 mA each.
    rails = parse(READING.replace("HDMI_A current(22)=0.02417580A", "HDMI_A current(22)=-0.01786000A"))
    assert rails["HDMI"] == pytest.approx(-0.01786 * 5.08664)
    assert sum(rails.values()) < SUM_W


def test_it_says_which_rails_it_sums(tmp_path: Path) -> None:
    sensor = Sensor({"command": fake(tmp_path, "show(READING)")})
    sensor.open()
    seen = sensor.describe()
    assert seen["rails"] == seen["total"] == sorted(PRODUCTS_W)
    assert "not its own losses" in seen["includes"]
