"""Units: what a user may write, what is refused with which hint, and how digits follow the uncertainty."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.errors import BadInputError
from rig.units import LIMITS, Quantity, parse_duration, parse_fps, parse_limit


@pytest.mark.parametrize(
    ("quantity", "text", "limit"),
    [
        ("power", "3.6W", 3.6),
        ("power", "450mW", 0.45),
        ("power", " 3.6 W ", 3.6),
        ("energy", "40mJ", 0.04),
        ("energy", "250uJ", 250e-6),
        ("energy", "250µJ", 250e-6),
        ("energy", "250\u03bcJ", 250e-6),
        ("latency", "12ms", 0.012),
        ("latency", "1e-2s", 0.01),
        ("flops", "1.2GFLOP", 1.2e9),
        ("flops", "600MMAC", 1.2e9),
        ("flops", "600MMACs", 1.2e9),
        ("params", "250k", 250e3),
        ("params", "270000", 270e3),
        ("params", "1.5Mparams", 1.5e6),
    ],
)
def test_absolute_limits(quantity, text, limit):
    parsed = parse_limit(quantity, text)
    assert parsed.relative is None
    assert parsed.limit == pytest.approx(limit)


def test_relative_limit():
    assert parse_limit("power", "50%").relative == 0.5
    assert parse_limit("latency", "62.5 %").relative == 0.625


@pytest.mark.parametrize(
    ("quantity", "text", "seen", "fix"),
    [
        ("power", "3.6", "no unit", "3.6W"),
        ("power", "3.6kW", "3600 W", "3.6W"),
        ("power", "3.6MW", "3600000 W", "3.6W"),
        ("power", "-3W", "negative", "3W"),
        ("power", "NaN", "NaN", "3.6W"),
        ("power", "nanW", "nanW", "3.6W"),
        ("power", "inf", "inf", "3.6W"),
        ("power", "1e999W", "finite", "3.6W"),
        ("power", "3.6w", "case", "3.6W"),
        ("power", "3.6MJ", "unknown unit 'MJ'", "3.6MW"),
        ("power", "0W", "zero", "3.6W"),
        ("power", "3,6W", "comma", "3.6W"),
        ("power", "", "empty", "3.6W"),
        ("power", "watts", "watts", "3.6W"),
        ("power", "120%", "100 %", "50%"),
        ("power", "0%", "0 %", "50%"),
        ("latency", "12m", "unknown unit 'm'", "12ms"),
        ("latency", "12", "no unit", "12ms"),
        ("energy", "5Wh", "unknown unit", "J"),
        ("flops", "1.2", "no unit", "1.2GFLOP"),
        ("flops", "1.2gflop", "case", "1.2GFLOP"),
        ("params", "3", "3 params", "3k"),
    ],
)
def test_refused_limits_say_what_to_write(quantity, text, seen, fix):
    with pytest.raises(BadInputError) as caught:
        parse_limit(quantity, text)
    assert seen in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20m", 1200),
        ("20min", 1200),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["20", "", "m", "20x", "-5m", "0s", "30m1h", "1m2m", "NaN", "1h 30", "99999d"])
def test_refused_durations(text):
    with pytest.raises(BadInputError) as caught:
        parse_duration(text)
    assert caught.value.fix


def test_fps():
    assert parse_fps("60") == 60
    assert parse_fps("29.97fps") == 29.97
    for text in ("0", "-1", "60W", "NaN", "1e9", "sixty"):
        with pytest.raises(BadInputError):
            parse_fps(text)


@given(st.sampled_from(sorted(LIMITS)), st.text(max_size=12))
def test_any_text_parses_or_is_refused_with_a_fix(quantity, text):
    try:
        parsed = parse_limit(quantity, text)
    except BadInputError as error:
        refusal = error
    else:
        refusal = None
    if refusal is not None:
        assert refusal.fix
        assert "--target" in refusal.message
    else:
        value = parsed.limit if parsed.relative is None else parsed.relative
        assert math.isfinite(value)
        assert value > 0


@given(st.text(max_size=10))
def test_any_duration_and_fps_parse_or_are_refused(text):
    for parse in (parse_duration, parse_fps):
        try:
            parsed, fix = parse(text), ""
        except BadInputError as error:
            parsed, fix = None, error.fix
        assert fix if parsed is None else 0 < parsed < math.inf


@given(st.floats(1e-3, 1500, allow_nan=False))
def test_power_round_trip(watts):
    assert parse_limit("power", f"{watts!r}W").limit == pytest.approx(watts)


@pytest.mark.parametrize(
    ("value", "half", "unit", "text"),
    [
        (5.3612, 0.0523, "W", "5.36 ± 0.05 W"),
        (0.04423, 0.00112, "J", "44.2 ± 1.1 mJ"),
        (5.3612, 0.0123, "W", "5.361 ± 0.012 W"),
        (5.3612, 0.0351, "W", "5.361 ± 0.035 W"),
        (5.3612, 0.0358, "W", "5.36 ± 0.04 W"),
        (5.3612, 0.0996, "W", "5.36 ± 0.10 W"),
        (0.45, 0.002, "W", "450.0 ± 2.0 mW"),
        (12.9e-6, 0.1e-6, "s", "12.90 ± 0.10 µs"),
        (1234.0, 120.0, "W", "1230 ± 120 W"),
        (0.5, 0.012, "%", "50.0 ± 1.2 %"),
        (41.2e6, 0.0, "MAC", "41.2 MMAC"),
    ],
)
def test_digits_follow_the_uncertainty(value, half, unit, text):
    assert Quantity.around(value, half).format(unit) == text


def test_format_without_interval_missing_and_asymmetric():
    assert Quantity(5.3612).format("W") == "5.36 W"
    assert Quantity(None).format("W") == "n/a"
    assert Quantity(float("nan")).format("W") == "n/a"
    assert Quantity(5.3, 4.9, 5.7, kind="predicted", basis="measured").format("W") == "5.3 [4.9, 5.7] W"
    assert Quantity(5.3, 5.2, 5.7).format("W") == "5.30 [5.20, 5.70] W"


def test_simulated_is_always_labelled():
    assert Quantity.around(5.36, 0.05, kind="simulated").format("W") == "5.36 ± 0.05 W SIMULATED"
    predicted = Quantity(5.3, 4.9, 5.7, kind="predicted", basis="simulated")
    assert predicted.format("W") == "5.3 [4.9, 5.7] W PREDICTED from SIMULATED"
    assert Quantity(1.0).format("W", label=True).endswith("MEASURED")


@given(st.floats(-1e12, 1e12), st.floats(1e-12, 1e12), st.sampled_from(["W", "J", "s", "MAC", "", "%"]))
def test_any_quantity_formats_and_round_trips(value, half, unit):
    quantity = Quantity.around(value, half, n=10)
    assert quantity.format(unit)
    assert Quantity.from_json(quantity.to_json()) == quantity


def test_unknown_keys_and_kinds_are_refused():
    with pytest.raises(ValueError, match="unknown key"):
        Quantity.from_json({"value": 1.0, "sigma": 2})
    with pytest.raises(ValueError, match="kind"):
        Quantity(1.0, kind="guessed")


def test_scaled_swaps_bounds_under_a_negative_factor():
    quantity = Quantity(2.0, 1.0, 4.0).scaled(-1.0)
    assert (quantity.lo, quantity.value, quantity.hi) == (-4.0, -2.0, -1.0)
