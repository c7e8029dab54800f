"""tegrastats on genuine lines of eight boards, and as a child process that prints, dies, hangs and lies."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agents.protocol import AgentError, now_s
from device_agents.sensors.tegrastats import Sensor, parse_line, total

NANO = (
    "RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [16%@204,9%@204,0%@204,0%@204] "
    "EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25 PLL@34C CPU@36.5C PMIC@100C GPU@36C AO@39.5C thermal@36.25C "
    "POM_5V_IN 1022/1022 POM_5V_GPU 0/0 POM_5V_CPU 204/204"
)
XAVIER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C Tdiode@32C AUX@30.5C CPU@31.5C "
    "thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306"
)
ORIN = (
    "07-21-2025 16:33:53 RAM 17956/62841MB (lfb 10x4MB) SWAP 0/31420MB (cached 0MB) CPU [31%@729,40%@729,4%@729,"
    "6%@729,0%@729,1%@729,2%@729,2%@729,off,off,off,off] EMC_FREQ 3%@665 GR3D_FREQ 1%@[305,0] NVENC off NVDEC off "
    "NVJPG off NVJPG1 off VIC off OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 cpu@43.718C soc2@40.593C "
    "soc0@41.125C gpu@39.812C tj@43.718C soc1@40.468C VDD_GPU_SOC 2798mW/2798mW VDD_CPU_CV 399mW/763mW "
    "VIN_SYS_5V0 3114mW/3169mW"
)
TX1_OLD = (
    "RAM 3468/3983MB (lfb 48x4MB) SWAP 873/8192MB (cached 295MB) cpu [17%,13%,29%,5%]@408 EMC 1%@408 APE 25 GR3D 3%@76"
)

# line -> (all its rails in mW, boundary, total in mW)
LINES = {
    "thermal@38.5C VDD_IN 2532/2698 VDD_CPU 76/178 VDD_GPU 19/19": (
        {"VDD_IN": 2532, "VDD_CPU": 76, "VDD_GPU": 19},
        "board_input",
        2532,
    ),
    "VDD_SYS_GPU 152/152 VDD_SYS_SOC 687/687 VDD_4V0_WIFI 0/0 VDD_IN 3056/3056 VDD_SYS_CPU 152/152 "
    "VDD_SYS_DDR 883/883": (
        {
            "VDD_SYS_GPU": 152,
            "VDD_SYS_SOC": 687,
            "VDD_4V0_WIFI": 0,
            "VDD_IN": 3056,
            "VDD_SYS_CPU": 152,
            "VDD_SYS_DDR": 883,
        },
        "board_input",
        3056,
    ),
    NANO: ({"POM_5V_IN": 1022, "POM_5V_GPU": 0, "POM_5V_CPU": 204}, "board_input", 1022),
    "Tboard@37C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482": (
        {"GPU": 0, "CPU": 311, "SOC": 932, "CV": 0, "VDDRQ": 621, "SYS5V": 1482},
        "module",
        3346,
    ),
    XAVIER: ({"GPU": 463, "CPU": 618, "SOC": 2936, "CV": 0, "VDDRQ": 309, "SYS5V": 3306}, "module", 7632),
    "RAM 2336/15827MB (lfb 2948x4MB) CPU [2%@1190,1%@1190,0%@1190,0%@1190,off,off,off,off] EMC_FREQ 0% GR3D_FREQ 0% "
    "AO@25.5C GPU@26C Tboard@27C Tdiode@28.75C AUX@25C CPU@27C thermal@25.75C PMIC@100C GPU 465/465 CPU 310/310 "
    "SOC 1242/1242 CV 0/0 VDDRQ 0/0 SYS5V 1776/1776": (
        {"GPU": 465, "CPU": 310, "SOC": 1242, "CV": 0, "VDDRQ": 0, "SYS5V": 1776},
        "module",
        3793,
    ),
    "thermal@42.55C VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353": (
        {"VDD_IN": 4067, "VDD_CPU_GPU_CV": 738, "VDD_SOC": 1353},
        "board_input",
        4067,
    ),
    "SOC1@48.875C CV2@45.75C VDD_IN 5299mW/5299mW VDD_CPU_GPU_CV 773mW/773mW VDD_SOC 1424mW/1424mW": (
        {"VDD_IN": 5299, "VDD_CPU_GPU_CV": 773, "VDD_SOC": 1424},
        "board_input",
        5299,
    ),
    "05-09-2026 18:42:07 RAM 18202/62841MB (lfb 466x4MB) GR3D_FREQ 0%@[0,0] NVENC 78%@166 NVDEC off "
    "VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4607mW/4657mW": (
        {"VDD_GPU_SOC": 2412, "VDD_CPU_CV": 1607, "VIN_SYS_5V0": 4607},
        "module",
        8626,
    ),
    "07-25-2026 09:08:28 GR3D_FREQ 12%@[1300,1300] cpu@52.968C/52.968C VDD_GPU_SOC 5139mW/5139mW/5139mW "
    "VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW": (
        {"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500},
        "module",
        13907,
    ),
    "05-17-2026 10:00:33 GR3D_FREQ @[0,0,0] NVENC0_FREQ @0 VIC off soc345@34.5C VDD_GPU 0mW/0mW "
    "VDD_CPU_SOC_MSS 4923mW/4544mW VIN_SYS_5V0 4327mW/4227mW": (
        {"VDD_GPU": 0, "VDD_CPU_SOC_MSS": 4923, "VIN_SYS_5V0": 4327},
        "module",
        9250,
    ),
    ORIN: ({"VDD_GPU_SOC": 2798, "VDD_CPU_CV": 399, "VIN_SYS_5V0": 3114}, "module", 6311),
}

# Thirteen of a capture's 114 lines; (IN, GPU, CPU) in mW from its owner's table.
NANO_TAILS = {
    "POM_5V_IN 920/920 POM_5V_GPU 0/0 POM_5V_CPU 119/119": (920, 0, 119),
    "POM_5V_IN 1537/1228 POM_5V_GPU 0/0 POM_5V_CPU 472/295": (1537, 0, 472),
    "POM_5V_IN 2793/1750 POM_5V_GPU 76/25 POM_5V_CPU 1222/604": (2793, 76, 1222),
    "POM_5V_IN 2435/2537 POM_5V_GPU 77/87 POM_5V_CPU 926/1037": (2435, 77, 926),
    "POM_5V_IN 5143/2615 POM_5V_GPU 2949/182 POM_5V_CPU 179/998": (5143, 2949, 179),
    "POM_5V_IN 5206/2702 POM_5V_GPU 3087/279 POM_5V_CPU 179/971": (5206, 3087, 179),
    "POM_5V_IN 5206/3786 POM_5V_GPU 3015/1492 POM_5V_CPU 179/627": (5206, 3015, 179),
    "POM_5V_IN 5206/4182 POM_5V_GPU 2908/1928 POM_5V_CPU 215/503": (5206, 2908, 215),
    "POM_5V_IN 5206/4376 POM_5V_GPU 3123/2146 POM_5V_CPU 215/445": (5206, 3123, 215),
    "POM_5V_IN 5170/4440 POM_5V_GPU 3087/2218 POM_5V_CPU 179/426": (5170, 3087, 179),
    "POM_5V_IN 2581/4485 POM_5V_GPU 154/2268 POM_5V_CPU 923/411": (2581, 154, 923),
    "POM_5V_IN 1765/4461 POM_5V_GPU 117/2249 POM_5V_CPU 235/409": (1765, 117, 235),
    "POM_5V_IN 1613/4436 POM_5V_GPU 118/2230 POM_5V_CPU 117/407": (1613, 118, 117),
}
NANO_HEAD = (
    "RAM 1762/3964MB (lfb 252x4MB) SWAP 0/4096MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [17%@204,0%@204,3%@204,"
    "3%@204] EMC_FREQ 4%@1600 GR3D_FREQ 99%@921 APE 25 PLL@25C CPU@28.5C PMIC@50C GPU@27C AO@30C thermal@27C "
)


@pytest.mark.parametrize("line", LINES)
def test_genuine_lines(line: str) -> None:
    rails_mw, boundary, total_mw = LINES[line]
    rails = parse_line(line)
    assert rails == pytest.approx({name: 1e-3 * milliwatts for name, milliwatts in rails_mw.items()})
    name, seen_boundary, watts = total(rails)
    assert (seen_boundary, watts) == (boundary, pytest.approx(1e-3 * total_mw))
    assert ("carrier excluded" in name) == (boundary == "module")
    assert parse_line(line.replace(" ", "   ")) == rails


@pytest.mark.parametrize("tail", NANO_TAILS)
def test_nano_capture_gives_its_owners_table(tail: str) -> None:
    names = ("POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU")
    expected = {name: 1e-3 * milliwatts for name, milliwatts in zip(names, NANO_TAILS[tail], strict=True)}
    assert parse_line(NANO_HEAD + tail) == pytest.approx(expected)


def test_what_is_not_power() -> None:
    assert parse_line(TX1_OLD) == {}
    assert parse_line("GPU@-256C PMIC@100C CPU [16%@204] APE 25 RAM 534/3964") == {}
    with pytest.raises(ValueError, match="no power rail"):
        total({})
    with pytest.raises(ValueError, match="VDD_IN comes twice"):
        parse_line("VDD_IN 1/1 VDD_IN 2/2")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*LINES, TX1_OLD]), st.data())
def test_a_truncated_line_has_no_watt_of_its_own(line: str, data: st.DataObject) -> None:
    cut = line[: data.draw(st.integers(0, len(line)))]
    whole = parse_line(line)
    assert parse_line(cut).items() <= whole.items()


def fake(folder: Path, body: str) -> str:
    """An executable whose ``show(line)`` prints a line and waits for its interval, as tegrastats does."""
    path = folder / "tegrastats"
    path.write_text(
        f"#!{sys.executable} -S\nimport os, sys, time\n"
        f"NANO, XAVIER, ORIN, TX1 = {NANO!r}, {XAVIER!r}, {ORIN!r}, {TX1_OLD!r}\n"
        "assert sys.argv[1] == '--interval'\n"
        "def show(line):\n    os.write(1, line.encode('latin-1') + b'\\n')\n    time.sleep(1e-3 * int(sys.argv[2]))\n"
        + body
    )
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[object]:
    """Opens a Sensor on a fake's body; closed at the end."""
    sensors = []

    def start(body: str, **options: object) -> Sensor:
        sensors.append(Sensor({"command": fake(tmp_path, body), "interval_ms": 100, **options}))
        sensors[-1].open()
        return sensors[-1]

    yield start
    for sensor in sensors:
        sensor.close()


def until_error(sensor: Sensor, limit_s: float = 30.0) -> tuple[list[tuple[float, float]], str]:
    samples, deadline_s = [], time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        try:
            samples.extend(sensor.poll())
        except AgentError as error:
            with pytest.raises(AgentError, match=re.escape(error.message)):
                sensor.poll()  # it stays an error
            return samples, error.message
        time.sleep(0.02)
    raise AssertionError("no error within the limit")


def test_samples_are_stamped_at_arrival(opened) -> None:
    before_s = now_s()
    sensor = opened("while True: show(NANO)")
    samples: list[tuple[float, float]] = []
    while len(samples) < 4:
        polled_s = now_s()
        samples.extend(sensor.poll())
        assert now_s() - polled_s < 0.5
        time.sleep(0.02)
    times = [t_s for t_s, _ in samples]
    assert times == sorted(set(times))
    assert before_s < times[0]
    assert times[-1] < now_s()
    assert [watts for _, watts in samples] == pytest.approx([1.022] * len(samples))
    described = sensor.describe()
    assert (described["rail"], described["boundary"], described["rate_hz"]) == ("POM_5V_IN", "board_input", 10.0)


def test_module_rails_are_summed_and_labelled(opened) -> None:
    sensor = opened("while True: show(XAVIER)")
    assert sensor.describe()["boundary"] == "module"
    assert sensor.describe()["rail"] == "CPU+CV+GPU+SOC+SYS5V+VDDRQ (module rails, carrier excluded)"
    assert sensor.poll()[0][1] == pytest.approx(7.632)


def test_one_rail_alone(opened) -> None:
    sensor = opened("while True: show(NANO)", rail="POM_5V_CPU")
    assert (sensor.describe()["rail"], sensor.describe()["boundary"]) == ("POM_5V_CPU", "rail")
    assert sensor.poll()[0][1] == pytest.approx(0.204)
    with pytest.raises(AgentError, match="has no rail VDD_IN, only POM_5V_CPU, POM_5V_GPU, POM_5V_IN"):
        opened("while True: show(NANO)", rail="VDD_IN")


@pytest.mark.parametrize(
    ("body", "watts", "problem"),
    [
        ("show(NANO); show(NANO); sys.exit(3)", 1.022, "ended with exit status 3"),
        ("show(NANO); os.kill(os.getpid(), 9)", 1.022, "killed by SIGKILL"),
        ("show(NANO); time.sleep(60)", 1.022, "is stale: no line for 1"),
        ("show(NANO); show('\\xff\\x00 garbage'); time.sleep(60)", 1.022, "printed no power in the line"),
        ("show(NANO); show(NANO[:-60]); time.sleep(60)", 1.022, "printed no power in the line"),
        ("show(NANO); os.write(1, NANO[:-3].encode()); time.sleep(60)", 1.022, "is stale"),
        ("show(NANO); os.write(1, NANO[:-3].encode())", 1.022, "ended with exit status 0"),
        ("show(XAVIER); show(XAVIER[:-16]); time.sleep(60)", 7.632, "changed its rails"),
        ("show(ORIN); show(ORIN.replace('VDD_CPU_CV', 'CV')); time.sleep(60)", 6.311, "changed its rails"),
        (
            "show(NANO); show(NANO.replace('POM_5V_IN', '')); time.sleep(60)",
            1.022,
            "POM_5V_IN is missing: there are only",
        ),
        ("show(NANO); show(NANO.replace('IN 1022', 'IN -1022')); time.sleep(60)", 1.022, "the current flows backwards"),
        ("show(NANO); show(NANO + NANO); time.sleep(60)", 1.022, "comes twice"),
        ("show(NANO); time.sleep(0.3); os.write(1, (NANO + '\\n').encode() * 9); time.sleep(60)", 1.022, "at once"),
    ],
)
def test_what_goes_wrong_is_an_error_and_never_a_number(opened, body: str, watts: float, problem: str) -> None:
    samples, message = until_error(opened(body))
    assert problem in message
    assert [value for _, value in samples] == pytest.approx([watts] * len(samples))
    assert len(samples) <= 2


def test_probe_says_what_is_missing(tmp_path: Path) -> None:
    assert Sensor({"command": str(tmp_path / "none")}).probe()[0] == "absent"
    assert Sensor({"command": fake(tmp_path, "while True: show(ORIN)")}).probe()[0] == "ok"
    state, reason, fix = Sensor({"command": fake(tmp_path, "while True: show(TX1)")}).probe()
    assert (state, "no power" in reason, "another power source" in fix) == ("absent", True, True)
    assert "exit status 7" in Sensor({"command": fake(tmp_path, "sys.exit(7)")}).probe()[1]
    state, reason, _ = Sensor({"command": fake(tmp_path, "time.sleep(60)"), "interval_ms": 20}).probe()
    assert (state, "printed no line" in reason) == ("absent", True)
    refused = tmp_path / "refused"
    refused.write_text("")
    assert Sensor({"command": str(refused)}).probe()[0] == "denied"


def test_close_ends_the_child_even_one_that_ignores_sigterm(opened, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    sensor = opened(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\nwhile True: show(NANO)"
    )
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}").exists()
    sensor.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(AgentError, match="not running"):
        sensor.poll()


@pytest.mark.parametrize("interval_ms", [0, 1001, 0.5, "fast", True])
def test_a_bad_interval_is_refused(interval_ms: object) -> None:
    with pytest.raises(AgentError, match="interval_ms"):
        Sensor({"interval_ms": interval_ms})


@pytest.mark.parametrize("lost", ["POM_5V_IN 1022/1022", "POM_5V_IN"])
def test_parts_are_not_taken_for_the_total_that_is_missing(lost: str) -> None:
    with pytest.raises(ValueError, match="POM_5V_IN is missing: there are only its parts, POM_5V_CPU, POM_5V_GPU"):
        total(parse_line(NANO.replace(lost, "")))
    with pytest.raises(ValueError, match="VDD_IN is missing"):
        total({"VDD_CPU_GPU_CV": 0.738, "VDD_SOC": 1.353})


def test_no_load_may_read_a_little_below_zero(opened) -> None:
    sensor = opened("while True: show(ORIN.replace('399mW/763mW', '-40mW/763mW'))")
    assert sensor.poll()[0][1] == pytest.approx(2.798 - 0.040 + 3.114)
    assert sensor.describe()["rails"] == sensor.describe()["total"] == ["VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]
