"""The report as files: sections, self-containment, escaping, determinism, and errors of damaged runs."""

import datetime
import re
from html.parser import HTMLParser

import example_runs as example
import pytest

from rig.errors import BadInputError, StoreError
from rig.plotting.pages import write_pdf
from rig.report.build import build_report, html_text, read_input
from rig.report.sections import sections
from rig.report.summary import caveats, change_text, headline, points_text
from rig.results import parse_result
from rig.units import Quantity


@pytest.fixture(scope="module")
def optimize_run(tmp_path_factory):
    return example.write_run(tmp_path_factory.mktemp("o"), example.optimize_result())


@pytest.fixture(scope="module")
def page(optimize_run):
    return build_report(optimize_run)


class Tags(HTMLParser):
    """Collects start tags and ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]


def test_html_is_one_small_file_without_script_or_network(page):
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert len(text) < 3e6
    assert "script" not in {tag for tag, _ in tags.tags}
    loaded = [attrs.get("src") or attrs.get("href", "") for tag, attrs in tags.tags if tag in ("img", "link", "iframe")]
    assert loaded == []
    assert not re.search(r"url\((?!#)", text)
    assert len(tags.ids) == len(set(tags.ids)), "an id stands twice"


def test_html_has_every_section_and_figures_with_caption_alt_and_csv(page):
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'<section id="section-(\d)"', text) == list("123456789")
    tags = Tags(text).tags
    assert sum(tag == "figure" for tag, _ in tags) == sum(tag == "figcaption" for tag, _ in tags) == 11
    pictures = [attrs for tag, attrs in tags if tag == "svg"]
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 40 for attrs in pictures)
    for name in re.findall(r'href="([a-z_0-9]+\.csv)"', text):
        assert (page.parent / name).read_text().count("\n") > 1


def test_a_simulated_report_says_so_everywhere(page):
    text = page.read_text(encoding="utf-8")
    assert 'class="banner"' in text
    table = text[text.index('id="table-networks"') : text.index("</table>")]
    assert table.count("SIMULATED") == 16  # every cell of power, energy, latency and deadlines, before and after
    assert "MMAC SIMULATED" not in table  # exact counts are not simulated


def test_a_measured_report_never_says_simulated(tmp_path):
    run = example.write_run(tmp_path, example.measure_result(False), False)
    data = read_input(run)
    text = html_text(data, sections(data))
    assert "SIMULATED" not in text
    assert 'class="banner"' not in text


def test_verdict_and_replay_line(page):
    text = page.read_text(encoding="utf-8")
    assert re.search(
        r'class="verdict">SIMULATED: MET: power 3\.\d+ ± 0\.013 W at 60 fps against a target of 3\.6\d+ W', text
    )
    assert "rig replay o-0001" in text
    assert "0000000000000000EXAMPLE" in text


def test_three_caveats(optimize_run):
    data = read_input(optimize_run)
    found = caveats(data.result, data.traces.values())
    assert len(found) == 3
    assert found[0].startswith("Simulated:")
    assert any("Quiet power is 7" in text for text in found)


def test_html_is_the_same_twice(optimize_run, page):
    data = read_input(optimize_run)
    assert html_text(data, sections(data)) == page.read_text(encoding="utf-8")


def test_text_of_the_run_is_escaped(tmp_path):
    raw = example.measure_result()
    raw["network"]["name"] = "<script>alert(1)</script>"
    run = example.write_run(tmp_path, raw)
    data = read_input(run)
    text = html_text(data, sections(data)[:1])
    assert "<script" not in text
    assert "&lt;script" in text


def test_time_only_device_shows_latency_and_says_so(tmp_path):
    run = example.write_run(tmp_path, example.measure_result(False, False), False, False)
    data = read_input(run)
    text = html_text(data, sections(data))
    assert "no power meter" in text
    assert "Where did the time go?" in text
    assert "0 W" not in text
    assert "not measured" in text


@pytest.mark.parametrize(("make", "numbers"), [(example.measure_result, "12379"), (example.calibrate_result, "12679")])
def test_measure_and_calibrate_have_the_sections_that_apply(tmp_path, make, numbers):
    run = example.write_run(tmp_path, make())
    found = sections(read_input(run))
    assert "".join(str(section.number) for section in found) == numbers
    assert headline(read_input(run).result).startswith("SIMULATED: ")


def test_pdf_is_deterministic_and_dated_by_the_run(tmp_path):
    first = build_report(example.write_run(tmp_path, example.measure_result()), "pdf").read_bytes()
    data = read_input(tmp_path / "runs" / "m-0001")
    started = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
    short = [write_pdf(tmp_path / f"{n}.pdf", "Title", [], sections(data)[:1], started).read_bytes() for n in range(2)]
    assert short[0] == short[1]
    assert first.startswith(b"%PDF-")
    assert b"(D:20260102030405" in first


def test_png_is_one_file_a_figure(tmp_path):
    run = example.write_run(tmp_path, example.measure_result(False, False), False, False)
    files = build_report(run, "png", tmp_path / "pictures")
    assert {file.stem for file in files} == {"budget", "trace_network", "windows_network", "energy", "flops"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_out_file_takes_its_numbers_beside_it(tmp_path):
    run = example.write_run(tmp_path, example.measure_result())
    page = build_report(run, "html", tmp_path / "shown" / "net.html")
    assert page == tmp_path / "shown" / "net.html"
    assert (tmp_path / "shown" / "net-data" / "budget.csv").exists()
    assert 'href="net-data/budget.csv"' in page.read_text(encoding="utf-8")


# --- what can be wrong ------------------------------------------------------------------------------------------


def test_unknown_format_lists_the_known():
    with pytest.raises(BadInputError, match="known are html, pdf, png"):
        build_report("x", "docx")


def test_unfinished_run_says_what_to_do(tmp_path):
    run = example.write_run(tmp_path, example.measure_result())
    (run / "result.json").unlink()
    with pytest.raises(StoreError, match=r"no result\.json") as caught:
        build_report(run)
    assert "resume" in caught.value.fix


def test_damaged_json_names_the_file(tmp_path):
    run = example.write_run(tmp_path, example.measure_result())
    (run / "result.json").write_text("{")
    with pytest.raises(StoreError, match=r"result\.json"):
        build_report(run)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("baseline", "latency_s"), {"lo": 1}, r"field baseline\.latency_s: .*'value'"),
        (("baseline", "latency_s"), {"value": 1.0, "unit": "s"}, r"unknown key\(s\) unit"),
        (("baseline", "latency_s"), 1.0, r"expected a quantity object, found float"),
        (("verdict",), "maybe", "field verdict"),
        (("device", "name"), None, r"field device\.name"),
        (("schema",), "rig.optimize/9", "field schema"),
        (("result",), None, "needs result"),
    ],
)
def test_a_bad_field_is_named(path, value, expected):
    raw = example.optimize_result()
    place = raw
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(StoreError, match=expected):
        parse_result(raw, "result.json")


def test_a_missing_field_is_named():
    raw = example.optimize_result()
    del raw["baseline"]["power_w"]
    with pytest.raises(StoreError, match=r"field baseline\.power_w: Field required"):
        parse_result(raw, "result.json")


def test_unknown_fields_of_a_newer_rig_are_left_alone():
    assert parse_result({**example.optimize_result(), "novelty": 1}, "x").verdict == "met"


def test_changes_carry_their_interval():
    assert points_text(Quantity.around(0.941, 0.003), Quantity.around(0.927, 0.003)) == "−1.4 ± 0.4 points"
    assert change_text(Quantity.around(10.0, 0.1), Quantity.around(5.0, 0.05)) == "−50.0 ± 0.7 %"
    assert change_text(None, Quantity(1.0)) == "n/a"
