"""Widths and blocks as a choice: costs against the tables themselves, choices against trying all of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from stairs import BLOCK, stairs

from device_agents.records import KernelSpec
from power_models.tables import Channels, NetworkTables, SizedKernel
from rig.compression.budget import resolve
from rig.compression.choosing import allocation
from rig.compression.choosing.allocation import GONE, MOST_WIDTHS, Allocator, LimitRows, Scores, limit_rows
from rig.compression.choosing.milp import NoChoiceError
from rig.compression.cutting.template import ResidualBlock
from rig.units import parse_limit

EXACT = 1e-9


def scores_of(template, seed: int = 0) -> Scores:
    random = np.random.default_rng(seed)
    channels = {g.name: random.lognormal(0, 1, g.width) for g in template.groups if g.prunable}
    blocks = {b.name: float(sum(channels[g].sum() for g in b.inner) * random.uniform(0.5, 2)) for b in template.blocks}
    return Scores(channels, blocks)


def budget_of(tables, template, *limits, idle_power_w=0.0, fps=None):
    seed = tables.totals(template.seed_widths())
    return resolve([parse_limit(name, text) for name, text in limits], fps, idle_power_w, seed), seed


def allocator_of(template, tables, *limits, scores=None, idle_power_w=0.0) -> Allocator:
    budget, seed = budget_of(tables, template, *limits, idle_power_w=idle_power_w)
    widths = template.seed_widths()
    rows = limit_rows(budget, seed)
    return Allocator(tables, widths, widths, template.blocks, frozenset(), scores or scores_of(template), rows)


def every_choice(allocator: Allocator):
    for chosen in itertools.product(*(range(len(options)) for options in allocator.options)):
        gone = {g for g, options, i in zip(allocator.parts, allocator.options, chosen, strict=True) if not options[i]}
        if all(not (b.inner & gone) or b.inner <= gone for b in allocator.blocks):
            yield chosen


def test_costs_of_the_problem_are_the_tables_own(template, tables) -> None:
    allocator = allocator_of(template, tables, ("latency", "50%"), ("flops", "60%"))
    problem, exact = allocator.problem(allocator.widths)
    assert exact
    random = np.random.default_rng(0)
    tried = 0
    while tried < 30:
        chosen = tuple(int(random.integers(len(options))) for options in allocator.options)
        if problem.allowed(chosen):
            found = allocator._allocation(chosen, 0.0, 0.0, True, 0)
            assert problem.cost(chosen) == pytest.approx(found.used)
            tried += 1


@pytest.mark.parametrize("share", ["60%", "35%", "15%"])
def test_no_widths_and_blocks_within_the_budget_lose_less(template, tables, share: str) -> None:
    allocator = allocator_of(template, tables, ("latency", share))
    problem, _ = allocator.problem(allocator.widths)
    held = [problem.loss(c) for c in every_choice(allocator) if (problem.cost(c) <= problem.limits).all()]
    found = allocator.choose(gap=EXACT)
    assert found.loss == pytest.approx(min(held))
    assert (found.used <= 1.0).all()
    assert found.exact


def test_widths_that_pay_are_the_ends_of_plateaus_and_the_seed_width(template, tables) -> None:
    allocator = allocator_of(template, tables, ("latency", "50%"))
    for group, options in zip(allocator.parts, allocator.options, strict=True):
        widths = [w for w in options if w != GONE]
        assert widths[0] == template.seed_widths()[group]
        assert all(w % BLOCK == 0 for w in widths)
        assert widths[-1] == BLOCK


def test_a_wide_layer_has_at_most_twelve_widths_and_its_seed_width() -> None:
    kernel = SizedKernel(
        "k",
        KernelSpec("conv", 1, 64, 14, 14, 500, 14, 14, 3, 3, 1, 1),
        Channels(0, (("a", 1),)),
        Channels(0, (("b", 1),)),
    )
    tables = NetworkTables([kernel], lambda specs: (np.array([float(s.macs) for s in specs]),) * 2, {"a": 64, "b": 500})
    scores = Scores({"a": np.ones(64), "b": np.ones(500)}, {})
    rows = LimitRows(np.array([[1e-9, 0.0, 0.0, 0.0]]), np.zeros(1))
    widths = {"a": 64, "b": 500}
    allocator = Allocator(tables, widths, widths, [], frozenset(), scores, rows)
    for group, options in zip(allocator.parts, allocator.options, strict=True):
        assert len(options) == MOST_WIDTHS
        assert options[0] == widths[group]
        assert options == sorted(options, reverse=True)


@pytest.mark.parametrize("share", [0.3, 0.05, 0.01])
def test_what_was_chosen_is_refined_to_nearly_the_best_of_all_widths(share: float) -> None:
    spec = KernelSpec("conv", 1, 64, 14, 14, 500, 14, 14, 3, 3, 1, 1)
    kernel = SizedKernel("k", spec, Channels(0, (("a", 1),)), Channels(0, (("b", 1),)))
    widths = {"a": 64, "b": 500}
    tables = NetworkTables([kernel], lambda specs: (np.array([float(s.macs) for s in specs]),) * 2, widths)
    random = np.random.default_rng(0)
    scores = {group: np.sort(random.lognormal(0, 1, width))[::-1] for group, width in widths.items()}
    rows = LimitRows(np.array([[1.0 / (share * spec.macs), 0.0, 0.0, 0.0]]), np.zeros(1))
    allocator = Allocator(tables, widths, widths, [], frozenset(), Scores(scores, {}), rows)
    options = [list(found) for found in allocator.options]
    coarse = allocator.choose(gap=EXACT)
    found = allocator.refined(coarse, gap=EXACT)
    lost = {group: own.sum() - np.concatenate([[0.0], np.cumsum(own)]) for group, own in scores.items()}
    held = np.outer(np.arange(1, 65) / 64, np.arange(1, 501) / 500) <= share
    best = float(np.where(held, lost["a"][1:, None] + lost["b"][None, 1:], np.inf).min())
    assert best - 1e-9 <= found.loss < coarse.loss
    assert found.loss - best < 0.3 * (coarse.loss - best)
    assert found.loss == pytest.approx(sum(float(lost[group][found.widths[group]]) for group in widths))
    assert (found.used <= 1.0).all()
    assert allocator.options == options  # the problem stays as it was


def test_refined_it_keeps_blocks_that_went_and_what_holds_no_limit_is_left_alone(template, tables) -> None:
    allocator = allocator_of(template, tables, ("latency", "15%"))
    coarse = allocator.choose()
    assert coarse.removed
    found = allocator.refined(coarse)
    assert found.removed
    assert found.loss <= coarse.loss
    assert (found.used <= 1.0).all()
    over = coarse._replace(used=np.array([1.01]))
    assert allocator.refined(over) is over


def test_a_width_that_costs_more_than_a_wider_one_is_no_option() -> None:
    def odd(specs):
        seconds = np.array([s.out_channels * (1.5 if s.out_channels % 16 else 1.0) for s in specs])
        return seconds, seconds

    spec = KernelSpec("conv", 1, 16, 14, 14, 64, 14, 14, 3, 3, 1, 1)
    tables = NetworkTables([SizedKernel("k", spec, Channels(16), Channels(0, (("b", 1),)))], odd, {"b": 64})
    rows = LimitRows(np.array([[1e-3, 0.0, 0.0, 0.0]]), np.zeros(1))
    allocator = Allocator(tables, {"b": 64}, {"b": 64}, [], frozenset(), Scores({"b": np.ones(64)}, {}), rows)
    options = allocator.options[0]
    assert options[:3] == [64, 48, 32]
    assert len(options) <= MOST_WIDTHS
    assert all(
        odd([spec._replace(out_channels=w)])[0] < odd([spec._replace(out_channels=v)])[0]
        for v, w in itertools.pairwise(options)
    )


def test_a_block_that_is_worth_nothing_goes_whole(template, tables) -> None:
    scores = scores_of(template)
    free = template.blocks[0].name
    scores = scores._replace(blocks={**scores.blocks, free: 1e-9})
    found = allocator_of(template, tables, ("latency", "70%"), scores=scores).choose()
    assert free in found.removed
    without = template.removed_kernels(found.removed)
    assert found.used[0] == pytest.approx(
        tables.totals(found.widths, without)[0] / (0.7 * seed_latency(template, tables))
    )


def seed_latency(template, tables) -> float:
    return float(tables.totals(template.seed_widths())[0])


def test_blocks_without_a_score_stay(template, tables) -> None:
    scores = scores_of(template)._replace(blocks={})
    found = allocator_of(template, tables, ("latency", "40%"), scores=scores).choose()
    assert found.removed == []
    assert found.used[0] <= 1.0


def test_all_limits_hold_at_once(template, tables, monkeypatch) -> None:
    monkeypatch.setattr(allocation, "MOST_WIDTHS", 3)
    allocator = allocator_of(template, tables, ("latency", "60%"), ("params", "30%"), ("energy", "50%"))
    problem, _ = allocator.problem(allocator.widths)
    held = [problem.loss(c) for c in every_choice(allocator) if (problem.cost(c) <= problem.limits).all()]
    found = allocator.choose(gap=EXACT)
    assert (found.used <= 1.0).all()
    assert found.loss == pytest.approx(min(held))


def test_flat_out_power_is_a_limit_though_it_is_a_ratio(template) -> None:
    def hungry(specs):  # 3×3 kernels draw four watts, the others one
        seconds, _ = stairs(specs)
        return seconds, seconds * np.array([4.0 if s.kernel_h == 3 else 1.0 for s in specs])

    largest = {g.name: g.width for g in template.groups}
    tables = NetworkTables(template.kernels, hungry, largest)
    seed = tables.totals(template.seed_widths())
    budget = resolve([parse_limit("power", f"{1.0 + 0.97 * seed[1] / seed[0]:.6f}W")], None, 1.0, seed)
    widths = template.seed_widths()
    allocator = Allocator(
        tables, widths, widths, template.blocks, frozenset(), scores_of(template), limit_rows(budget, seed)
    )
    found = allocator.choose(gap=EXACT)
    totals = tables.totals(found.widths, template.removed_kernels(found.removed))
    assert budget.bounds[0].value(totals) <= budget.bounds[0].limit
    problem, _ = allocator.problem(allocator.widths)
    held = [problem.loss(c) for c in every_choice(allocator) if (problem.cost(c) <= problem.limits).all()]
    assert found.loss == pytest.approx(min(held))


def test_a_frame_rate_is_kept(template, tables) -> None:
    budget, seed = budget_of(tables, template, ("flops", "90%"))
    rows = limit_rows(budget, seed, frame_s=0.3 * float(seed[0]))
    widths = template.seed_widths()
    found = Allocator(tables, widths, widths, template.blocks, frozenset(), scores_of(template), rows).choose()
    assert tables.totals(found.widths, template.removed_kernels(found.removed))[0] <= 0.3 * seed[0]


def test_limits_that_nothing_holds_are_said_with_what_is_reachable(template, tables) -> None:
    allocator = allocator_of(template, tables, ("latency", "0.1%"))
    with pytest.raises(NoChoiceError):
        allocator.choose()
    least = allocator.least()
    assert least.used[0] == pytest.approx(allocator.narrowest().used[0])
    assert least.used[0] > 1.0


def concatenated() -> tuple[NetworkTables, dict[str, int]]:
    """Three groups side by side are read by a fourth, as in a dense block."""
    widths = {"a": 32, "b": 32, "c": 32, "d": 64}
    image = KernelSpec("conv", 1, 3, 14, 14, 32, 14, 14, 3, 3, 1, 1)
    kernels = [SizedKernel(g, image, Channels(3), Channels(0, ((g, 1),))) for g in "abc"]
    joined = Channels(0, (("a", 1), ("b", 1), ("c", 1)))
    follows = KernelSpec("batch_norm", 1, 96, 14, 14, 96, 14, 14)
    reads = KernelSpec("conv", 1, 96, 14, 14, 64, 14, 14, 3, 3, 1, 1)
    kernels += [SizedKernel("norm", follows, joined, joined), SizedKernel("d", reads, joined, Channels(0, (("d", 1),)))]
    return NetworkTables(kernels, stairs, widths), widths


@pytest.mark.parametrize("share", [0.75, 0.5, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kernels_on_many_groups_are_priced_anew_until_the_choice_holds(share: float, seed: int) -> None:
    tables, widths = concatenated()
    random = np.random.default_rng(seed)
    scores = Scores({g: random.lognormal(0, 1, w) for g, w in widths.items()}, {})
    rows = LimitRows(np.array([[1.0 / (share * tables.totals(widths)[0]), 0.0, 0.0, 0.0]]), np.zeros(1))
    allocator = Allocator(tables, widths, widths, [], frozenset(), scores, rows)
    found = allocator.choose(gap=EXACT)
    assert not found.exact
    assert (found.used <= 1.0).all()
    problem, _ = allocator.problem(widths)
    least = np.inf
    for chosen in every_choice(allocator):
        one = allocator._allocation(chosen, problem.loss(chosen), 0.0, False, 0)
        if (one.used <= 1.0).all():
            least = min(least, one.loss)
    assert found.loss <= 1.1 * least + 1e-9


def concatenated_allocator(share: float, seed: int) -> Allocator:
    tables, widths = concatenated()
    random = np.random.default_rng(seed)
    scores = Scores({g: random.lognormal(0, 1, w) for g, w in widths.items()}, {})
    rows = LimitRows(np.array([[1.0 / (share * tables.totals(widths)[0]), 0.0, 0.0, 0.0]]), np.zeros(1))
    return Allocator(tables, widths, widths, [], frozenset(), scores, rows)


MISSES = [(share, seed) for share in (0.75, 0.5, 0.3) for seed in (0, 1, 2)]


@pytest.mark.parametrize(("share", "seed"), MISSES)
def test_where_choices_priced_anew_did_not_hold_the_limits_are_lowered(share, seed, monkeypatch) -> None:
    monkeypatch.setattr(allocation, "ANCHORS", 1)
    assert (concatenated_allocator(share, seed).choose(gap=EXACT).used <= 1.0).all()


def test_the_one_that_is_least_over_is_what_remains(monkeypatch) -> None:
    monkeypatch.setattr(allocation, "ANCHORS", 1)
    monkeypatch.setattr(allocation, "LOWERED", 0)
    over = [a.choose(gap=EXACT) for a in (concatenated_allocator(*miss) for miss in MISSES)]
    assert any(1.0 < found.used[0] < 1.5 for found in over)


def test_of_blocks_that_overlap_the_smaller_may_go(template, tables) -> None:
    inside = template.blocks[0]
    around = ResidualBlock(
        "around",
        inside.kernels | template.blocks[1].kernels,
        (*inside.layers, *template.blocks[1].layers),
        inside.entry,
        inside.inner | template.blocks[1].inner,
    )
    budget, seed = budget_of(tables, template, ("latency", "50%"))
    widths, scores = template.seed_widths(), scores_of(template)
    scores = scores._replace(blocks={**scores.blocks, "around": 0.0})
    blocks = [around, *template.blocks]
    allocator = Allocator(tables, widths, widths, blocks, frozenset(), scores, limit_rows(budget, seed))
    assert [b.name for b in allocator.blocks] == [b.name for b in template.blocks]
