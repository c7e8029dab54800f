"""Answers of instruments and lines of logs: every reading that is none is named, and no watt is invented."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from rig.meters.answers import BadAnswer, fields_of, number, pick, power_w
from rig.meters.log_lines import CsvColumns, named_fields, ptd_line, time_s
from tests.meters.parser_properties import METER_PARSERS
from tests.meters.parser_properties import PTD as GENUINE


def test_numbers_are_read() -> None:
    assert number("+5.250000E+00") == 5.25
    assert power_w(fields_of("230.1, 5.5, 3", ","), (2,), 1.0) == 5.5
    assert power_w(fields_of("5.0;1.2", ";"), (1, 2), 1.0) == pytest.approx(6.0)
    assert power_w(fields_of("P1 = 1520 mW", ",", r"= *(\d+) mW"), (1,), 1e-3) == pytest.approx(1.52)
    assert power_w(["-0.004"], (1,), 1.0) == -0.004  # the zero of a meter with nothing attached


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("+9.91E+37", "no reading"),
        ("NAN", "no reading"),
        ("9.9E37", "overload"),
        ("-9.9E37", "overload"),
        ("INF", "overload"),
        ("", "no number"),
        ("-----", "no number"),
        ("-113,Undefined header", "no number"),
        ("0x10", "no number"),
    ],
)
def test_what_is_no_reading_is_said_to_be(text: str, words: str) -> None:
    with pytest.raises(BadAnswer, match=words):
        number(text)


def test_a_negative_power_is_refused_with_its_cause() -> None:
    with pytest.raises(BadAnswer, match="current leads are swapped"):
        power_w(["-2.5"], (1,), 1.0)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(BadAnswer, match=r"has 2 field\(s\), field 3 is wanted"):
        pick(["1", "2"], 3)
    with pytest.raises(BadAnswer, match="does not match"):
        fields_of("hello", ",", r"(\d+) W")


def test_a_ptdaemon_line_is_read() -> None:
    line = ptd_line(GENUINE)
    assert line.power_w == 2.844
    later = ptd_line(GENUINE.replace("23:40:59.238", "23:41:00.237"))
    assert (later.stamp_s or 0.0) - (line.stamp_s or 0.0) == pytest.approx(0.999)
    assert named_fields(GENUINE)["Mark"] == "2022-02-22_23-29-37_testing"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (GENUINE.replace("2.844000", "nan"), "field Watts: 'nan' means that there is no reading"),
        (GENUINE.replace("Watts", "Volts"), "no field Watts"),
        (GENUINE.replace("02-22-2022 23", "22-02-2022 23"), "field Time"),
        (GENUINE[:36], "no field Mark"),  # "Watts,2": not two watts
        (GENUINE[:28], "no field Watts"),
        (GENUINE[:44], "even number"),
    ],
)
def test_a_bad_ptdaemon_line_names_its_field(line: str, words: str) -> None:
    with pytest.raises(BadAnswer, match=words):
        ptd_line(line)


def test_csv_columns_are_found_and_units_are_applied() -> None:
    known = CsvColumns("Timestamp;Voltage;Power", None, None, None, "mW")
    assert known.parse("2026-03-01T12:00:00.500;5.1;2500").power_w == pytest.approx(2.5)
    named = CsvColumns('"t [ms]","P total",note', "t [ms]", "p total", "ms", "W")
    line = named.parse('1500,"3.25","a, b"')
    assert (line.stamp_s, line.power_w) == (1.5, 3.25)
    assert CsvColumns("p,v", "", "p", None, "W").parse("4,5").stamp_s is None


def test_wrong_columns_are_named_with_those_there_are() -> None:
    with pytest.raises(BadAnswer, match=r"no column 'power' among Time, Pwoer; nearest 'pwoer' \(meter.power_column\)"):
        CsvColumns("Time,Pwoer", None, "power", None, "W")
    with pytest.raises(BadAnswer, match="not CSV"):
        CsvColumns("time,power", None, None, None, "W").parse('1,"2"5')
    with pytest.raises(BadAnswer, match="2 fields, the header has 3"):
        CsvColumns("time,power,x", None, None, None, "W").parse("1,2")


def test_time_stamps_in_every_form() -> None:
    assert time_s("12.5", None) == 12.5
    assert time_s("1970-01-01T00:00:02Z", None) == 2.0
    assert time_s("1970-01-01 01:00:02+01:00", "iso") == 2.0
    assert time_s("02.01.1970 00:00:01", "%d.%m.%Y %H:%M:%S") == 86401.0
    with pytest.raises(BadAnswer, match="not a number of seconds or an ISO 8601 time"):
        time_s("yesterday", None)


@pytest.mark.parametrize("name", METER_PARSERS)
def test_no_input_crashes_a_parser_or_makes_up_watts(name: str) -> None:
    """A few hundred inputs each; experiments/meter-fuzz tries a hundred thousand."""
    parser = METER_PARSERS[name]
    with parser.run() as check:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(parser.inputs)
        def holds(text: str) -> None:
            check(text)

        holds()
