"""Tables of measurements: both shapes are read; what is wrong is said with its line; the rest is used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from power_models.measured_tables import TableError, network_family, read_table

HEADER = "kind,batch,in_channels,in_height,in_width,out_channels,kernel_h,kernel_w,stride,padding,groups,dtype,"
COLUMNS = HEADER + "latency_s,power_w,energy_j"
ROW = "conv,1,16,28,28,32,3,3,1,1,1,float32,0.002,4.0,0.008"
KERNEL: dict[str, Any] = {
    "kind": "conv", "batch": 1, "in_channels": 3, "in_height": 8, "in_width": 8, "out_channels": 4, "kernel_h": 3,
    "kernel_w": 3, "stride": 2, "padding": 1, "groups": 1, "out_height": 4, "out_width": 4, "activation": "hard_swish",
}  # fmt: skip
NETWORK: dict[str, Any] = {
    "network": "mobilenet-v2-1.0-96", "device": "board-tflite-v2.7.1", "source": "MLPerf", "dtype": "int8",
    "latency_s": 0.01, "power_w": 5.0, "idle_power_w": 3.0, "energy_j": 0.05, "kernels": [KERNEL],
}  # fmt: skip


def csv_of(tmp_path: Path, *lines: str, header: str = COLUMNS) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def jsonl_of(tmp_path: Path, *rows: Any, zipped: bool = False) -> Path:
    path = tmp_path / ("table.jsonl.gz" if zipped else "table.jsonl")
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return path


def changed(row: str, column: str, value: str) -> str:
    cells = row.split(",")
    cells[COLUMNS.split(",").index(column)] = value
    return ",".join(cells)


def test_a_table_of_kernels(tmp_path: Path) -> None:
    table = read_table(csv_of(tmp_path, ROW))
    (row,) = table.kernels
    assert (row.kernel.out_height, row.kernel.out_width, row.kernel.macs) == (28, 28, 28 * 28 * 32 * 16 * 9)
    assert (row.latency_s, row.power_w, row.energy_j, row.energy_active_j) == (0.002, 4.0, 0.008, 0.008)
    assert (row.line, row.dtype, row.columns["in_channels"], table.unusable) == (2, "float32", "16", ())
    assert len(table.sha256) == 64


@pytest.mark.parametrize("zipped", [True, False])
def test_a_table_of_networks(tmp_path: Path, zipped: bool) -> None:
    (row,) = read_table(jsonl_of(tmp_path, NETWORK, zipped=zipped)).networks
    assert (row.name, row.family, row.dtype, row.device) == (
        NETWORK["network"],
        "mobilenet-v2",
        "int8",
        NETWORK["device"],
    )
    assert row.energy_active_j == pytest.approx(0.05 - 3.0 * 0.01)
    (kernel,) = row.kernels
    assert (kernel.fused, kernel.dtype, kernel.out_height) == ("hardswish", "int8", 4)
    assert row.columns["source"] == "MLPerf"


def test_power_stands_in_for_a_missing_energy_and_the_other_way_round(tmp_path: Path) -> None:
    kernels = read_table(csv_of(tmp_path, changed(ROW, "energy_j", ""), changed(ROW, "power_w", ""))).kernels
    assert [(k.power_w, k.energy_j) for k in kernels] == [(4.0, 0.008), (4.0, 0.008)]


def test_latency_alone_is_a_measurement(tmp_path: Path) -> None:
    (row,) = read_table(csv_of(tmp_path, changed(changed(ROW, "energy_j", ""), "power_w", ""))).kernels
    assert (row.power_w, row.energy_j, row.energy_active_j) == (None, None, None)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("latency_s", "0", "latency_s is '0'"),
        ("latency_s", "", "no latency_s"),
        ("latency_s", "nan", "no finite number"),
        ("power_w", "-1", "positive"),
        ("energy_j", "inf", "no finite number"),
        ("in_channels", "1.5", "whole number"),
        ("in_channels", "many", "no finite number"),
        ("stride", "0", "from 1 on"),
        ("padding", "-1", "from 0 on"),
        ("batch", "1e300", "whole number"),
        ("groups", "5", "do not divide"),
        ("kernel_h", "99", "does not fit"),
        ("dtype", "float12", "known: float32"),
        ("kind", "conv/x", "no name"),
        ("kind", "", "no kind"),
    ],
)
def test_a_bad_row_is_listed_with_its_line_and_the_others_are_used(
    tmp_path: Path, column: str, value: str, said: str
) -> None:
    table = read_table(csv_of(tmp_path, ROW, changed(ROW, column, value), ROW))
    assert [row.line for row in table.kernels] == [2, 4]
    ((line, reason),) = table.unusable
    assert line == 3
    assert said in reason


def test_a_row_with_too_few_fields_is_listed(tmp_path: Path) -> None:
    table = read_table(csv_of(tmp_path, ROW, ROW[:30], ROW + ",1"))
    assert [row.line for row in table.unusable] == [3, 4]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "no JSON"),
        ("[1, 2]", "no JSON object but list"),
        ({**NETWORK, "kernels": []}, "no kernels"),
        ({**NETWORK, "kernels": ["conv"]}, "no list of objects"),
        ({**NETWORK, "kernels": [{**KERNEL, "stride": True}]}, "kernel 0 of mobilenet-v2-1.0-96: stride"),
        ({**NETWORK, "latency_s": None}, "no latency_s"),
        ({**NETWORK, "latency_s": "NaN"}, "no finite number"),
        ({**NETWORK, "energy_j": 0.02}, "not above quiet power"),
        ({**NETWORK, "idle_power_w": "three"}, "idle_power_w is 'three'"),
        ({k: v for k, v in NETWORK.items() if k != "network"}, "no network"),
    ],
)
def test_a_bad_network_is_listed_with_its_line(tmp_path: Path, row: Any, said: str) -> None:
    table = read_table(jsonl_of(tmp_path, NETWORK, row, NETWORK))
    assert [one.line for one in table.networks] == [1, 3]
    ((line, reason),) = table.unusable
    assert line == 2
    assert said in reason


def test_a_quiet_power_far_from_the_others_is_replaced_by_their_median(tmp_path: Path) -> None:
    rows = [{**NETWORK, "idle_power_w": w} for w in (2.9, 2.95, 3.0, 3.9)]
    networks = read_table(jsonl_of(tmp_path, *rows)).networks
    assert [(n.idle_power_w, n.quiet_replaced) for n in networks[2:]] == [(3.0, False), (pytest.approx(2.975), True)]


@pytest.mark.parametrize(
    ("quiet_w", "off_w", "replaced"),
    [
        (2.9, 0.3, False),  # a board: a tenth more
        (2.9, 0.6, True),
        (60.0, 4.0, False),  # a card of tens of watts: a fan's turn is several
        (60.0, 12.0, True),
        (0.12, 0.05, True),  # a microcontroller: half as much again is far off, whatever the watts
    ],
)
def test_how_far_a_quiet_power_may_be_off_goes_with_the_devices_own(
    tmp_path: Path, quiet_w: float, off_w: float, replaced: bool
) -> None:
    rows = [quiet_row(quiet_w * (1 + 0.002 * i)) for i in range(-4, 5)] + [quiet_row(quiet_w + off_w)]
    *others, last = read_table(jsonl_of(tmp_path, *rows)).networks
    assert last.quiet_replaced == replaced
    assert not any(one.quiet_replaced for one in others)


def test_quiet_powers_that_scatter_are_the_devices(tmp_path: Path) -> None:
    """A host with other work: quiet powers spread over a third, and none of them is a mistake."""
    rows = [quiet_row(10.0 + 0.5 * i) for i in range(-4, 5)]
    assert not any(one.quiet_replaced for one in read_table(jsonl_of(tmp_path, *rows)).networks)


def quiet_row(quiet_w: float) -> dict[str, Any]:
    """A network on a device of that quiet power, whose energy is above it."""
    return {
        **NETWORK,
        "idle_power_w": quiet_w,
        "power_w": 3.0 * quiet_w,
        "energy_j": 3.0 * quiet_w * NETWORK["latency_s"],
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"\x1f\x8b\x08 no gzip", "neither text nor gzipped text"),
        (gzip.compress(b"{}", mtime=0)[:-9], "neither text nor gzipped text"),
        (gzip.compress(b"x" * 99, mtime=0)[:20] + b"\x00" * 40, "neither text nor gzipped text"),
        (b"\xff\xfe\x00", "neither text nor gzipped text"),
        (b"a,b\n1,2\n", "line 1: no column kind"),
        (b"[{}]", "JSON array"),
        (f"{COLUMNS},kind\n{ROW},conv\n".encode(), "a column is there twice"),
        (f"{COLUMNS}\n{changed(ROW, 'latency_s', '0')}\n".encode(), "no usable row; line 2: latency_s"),
        (f"{COLUMNS}\n".encode(), "no usable row"),
        (b"{}", "no usable row; line 1: no network"),
        (COLUMNS.encode() + b'\n"' + b"x" * 200_000 + b'"\n', "no CSV"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "table"
    path.write_bytes(data)
    with pytest.raises(TableError, match="table: ") as error:
        read_table(path)
    assert said in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{COLUMNS}\r\n{ROW}\r\n".encode())
    assert len(read_table(path).kernels) == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("mobilenet-v1-0.25-128-quantized", "mobilenet-v1"),
        ("mobilenet-v3-large_224_1.0", "mobilenet-v3"),
        ("efficientnet-lite4-non-quantized", "efficientnet"),
        ("resnet50", "resnet50"),
    ],
)
def test_family_of_a_name(name: str, family: str) -> None:
    assert network_family(name) == family
