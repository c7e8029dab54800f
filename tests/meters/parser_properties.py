"""What must hold of every parser of a meter, whatever it is fed; see tests/contracts/parser_properties.py."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from hypothesis import strategies as st

from rig.meters.answers import BadAnswer, fields_of, power_w
from rig.meters.log_lines import CsvColumns, ptd_line
from tests.contracts.parser_properties import Parser, close, mutated

PTD = (
    "Time,02-22-2022 23:40:59.238,Watts,2.844000,Volts,249.950000,Amps,0.027200,PF,0.418400,"
    "Mark,2022-02-22_23-29-37_testing"
)
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
Check = Callable[[str], None]


def said_w(text: str, unit_w: float = 1.0) -> float:
    """The watts that a field says, found in another way; fails where it says none."""
    assert NUMBER.fullmatch(text), f"{text!r} says no watts"
    value = Decimal(text.strip())
    assert abs(value) < Decimal("9.8e37"), f"{text!r} is SCPI's for no reading"
    watts = unit_w * float(value)
    assert watts > -0.03, f"{text!r} is negative"
    return watts


@contextmanager
def scpi_answer() -> Iterator[Check]:
    def check(text: str) -> None:
        try:
            watts = power_w(fields_of(text, ","), (2,), 1.0)
        except BadAnswer:
            return
        assert close(watts, said_w(text.strip().split(",")[1]))

    yield check


@contextmanager
def scpi_pattern() -> Iterator[Check]:
    def check(text: str) -> None:
        try:
            watts = power_w(fields_of(text, ",", r"P *= *([^ ]*) mW"), (1,), 1e-3)
        except BadAnswer:
            return
        found = re.search(r"P *= *([^ ]*) mW", text)
        assert found is not None
        assert close(watts, 1e-3 * float(Decimal(found.group(1).strip())))

    yield check


@contextmanager
def ptd() -> Iterator[Check]:
    def check(text: str) -> None:
        try:
            line = ptd_line(text)
        except BadAnswer:
            return
        parts = [part.strip() for part in text.strip().split(",")]
        assert "Mark" in parts[::2]
        last = dict(zip(parts[::2], parts[1::2], strict=True))
        assert close(line.power_w, said_w(last["Watts"]))
        assert line.stamp_s is not None
        shown = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=line.stamp_s)
        month, day, year = (int(part) for part in last["Time"].split()[0].split("-"))
        assert (shown.month, shown.day, shown.year) == (month, day, year)

    yield check


@contextmanager
def csv_log() -> Iterator[Check]:
    columns = CsvColumns("time;volts;power", None, None, "s", "mW")

    def check(text: str) -> None:
        try:
            line = columns.parse(text)
        except BadAnswer:
            return
        parts = re.findall(r'(?:^|;)("(?:[^"]|"")*"|[^;"][^;]*|)', text.strip())  # a quoted field may hold a separator
        assert len(parts) == 3
        last = parts[2].strip()
        assert close(line.power_w, said_w(last[1:-1] if last.startswith('"') else last, 1e-3))

    yield check


@contextmanager
def csv_header() -> Iterator[Check]:
    def check(text: str) -> None:
        try:
            columns = CsvColumns(text, None, None, None, "W")
        except BadAnswer:
            return
        assert columns.header == text.strip()
        assert any(word in text.lower() for word in ("w", "p"))

    yield check


SEEDS: dict[str, list[str]] = {
    "SCPI answer": ["230.1,5.2500,1.0", "+2.30E+02,+9.91000000E+37,0", "1,-2.5,3", "0,9.9E37,0"],
    "SCPI answer by pattern": ["U = 5.1 V P = 1520 mW", "P=0.9 mW"],
    "PTDaemon line": [PTD],
    "CSV log line": ["12.5;5.02;2510.5", '13.5;"5,02";2509'],
    "CSV log header": ["time,watts", "t;p", "Date\tPower (W)"],
}

METER_PARSERS: dict[str, Parser] = {
    "SCPI answer": Parser(
        st.one_of(mutated(SEEDS["SCPI answer"], "0123456789,.+-eEnaifNIF "), st.text(max_size=40)), scpi_answer
    ),
    "SCPI answer by pattern": Parser(
        st.one_of(mutated(SEEDS["SCPI answer by pattern"], "P= mW0123456789.eE+-_"), st.text(max_size=40)),
        scpi_pattern,
    ),
    "PTDaemon line": Parser(
        st.one_of(mutated([PTD], "WattsTimeVMrk,_-:./ 0123456789nae+E\t"), st.text(max_size=80)), ptd
    ),
    "CSV log line": Parser(
        st.one_of(mutated(SEEDS["CSV log line"], '0123456789;.,"+-e\r '), st.text(max_size=60)), csv_log
    ),
    "CSV log header": Parser(
        st.one_of(mutated(SEEDS["CSV log header"], 'timewatsp,;\t"'), st.text(max_size=60)), csv_header
    ),
}
