"""Device profiles: shipped ones load, own ones override field by field, errors name file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_agents.records import MeasurePlan
from rig.errors import DeviceSetupError, ProfileError, UnknownDeviceError
from rig.profiles import SHIPPED_FOLDER, load_profile, profile_names

SHIPPED = ("desktop-gpu", "jetson-nano", "jetson-orin-nano", "local", "odroid-n2plus", "pi4", "pi5", "virtual-pi4")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path))
    folder = tmp_path / "devices"
    folder.mkdir()
    return folder


def test_shipped_profiles_are_the_promised_ones() -> None:
    assert tuple(profile_names()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_is_complete(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.sensors
    assert profile.boundary
    assert isinstance(profile.plan.to_plan(fps=30.0), MeasurePlan)
    assert profile.simulated == (profile.runtime.name == "virtual")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_holds_no_secret(name: str) -> None:
    transport = load_profile(name).transport
    assert transport.host is None
    assert transport.identity_file is None


def test_own_file_overrides_field_by_field(own: Path) -> None:
    (own / "pi4.toml").write_text('[transport]\nhost = "board.example"\n[runtime.options]\nthreads = 1\n')
    profile = load_profile("pi4")
    assert (profile.transport.host, profile.transport.user) == ("board.example", "pi")
    assert profile.runtime.options == {"threads": 1, "spinning": False}
    assert profile.missing_host() is None


def test_own_file_may_be_a_new_device(own: Path) -> None:
    (own / "bench-board.toml").write_text('sensors = ["ina226"]\n[transport]\nkind = "ssh"\nhost = "b"\n')
    assert "bench-board" in profile_names()
    assert load_profile("bench-board").sensors == ("ina226",)


@pytest.mark.parametrize(
    ("text", "line", "field", "hint"),
    [
        ('[transport]\nport = "ssh"\n', 2, "transport.port", "integer"),
        ('# mine\n\n[transport]\nuser = "pi"\nhots = "x"\n', 5, "transport.hots", "host"),
        ('sensrs = ["ina226"]\n', 1, "sensrs", "sensors"),
        ("[plan]\n\nwindow_s = -1\n", 3, "plan.window_s", "greater than 0"),
        ("transport = 3\n", 1, "transport", "table"),
        ("transport = {port = 99999}\n", 1, "transport.port", "65535"),
        ("transport.port = 0\n", 1, "transport.port", "1"),
        ('boundary = "mains"\n', 1, "boundary", "board_input"),
        ('description = "x"\nname = "pi5"\n', 2, "name", "pi4"),
        ("plan = { rel_ci = 2 }\n", 1, "plan.rel_ci", "less than 1"),
    ],
)
def test_error_names_file_line_and_field(own: Path, text: str, line: int, field: str, hint: str) -> None:
    path = own / "pi4.toml"
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        load_profile("pi4")
    assert caught.value.message.startswith(f"{path}, line {line}: field {field}: ")
    assert hint in f"{caught.value.message} {caught.value.fix}"


@pytest.mark.parametrize(("text", "line"), [("[transport\n", 1), ('\n\nsensors = ["a"\n', 3), ("a = 1\na = 2\n", 2)])
def test_syntax_error_names_the_line(own: Path, text: str, line: int) -> None:
    path = own / "pi4.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match="not valid TOML") as caught:
        load_profile("pi4")
    assert caught.value.message.startswith(f"{path}, line {line}:")


def test_file_that_is_no_text(own: Path) -> None:
    (own / "pi4.toml").write_bytes(b"a = '\xff\xfe'")
    with pytest.raises(ProfileError, match="not UTF-8"):
        load_profile("pi4")


def test_unknown_device_gives_the_nearest_names() -> None:
    with pytest.raises(UnknownDeviceError, match="did you mean virtual-pi4"):
        load_profile("virtual-pi")


@pytest.mark.parametrize("name", ["../pi4", "/etc/passwd", "", ".", "zzzz"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(UnknownDeviceError, match="no device profile named"):
        load_profile(name)


@pytest.mark.parametrize(
    ("text", "where"),
    [(None, "line 2"), ("[transport]\nport = 2222\n", "line 2"), ('sensors = ["ina226"]\n', "line 3")],
)
def test_missing_host_says_which_line_of_which_file(own: Path, text: str | None, where: str) -> None:
    path = own / "pi4.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeviceSetupError) as caught:
        load_profile("pi4").require_host()
    fix = caught.value.fix or ""
    assert caught.value.exit_code == 3
    assert str(path) in fix
    assert where in fix
    assert 'host = "' in fix
    assert "[transport]" in fix
    assert "virtual-pi4" in fix


def test_following_the_fix_works(own: Path) -> None:
    (own / "pi4.toml").write_text('[transport]\nhost = "board.example"\n')
    load_profile("pi4").require_host()


def test_shipped_files_are_packaged() -> None:
    assert {path.suffix for path in SHIPPED_FOLDER.iterdir() if path.is_file()} == {".toml"}
