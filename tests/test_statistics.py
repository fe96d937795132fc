"""Statistics against hand-made enumerations, scipy, known coefficients and simulation under the null."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from repsim import statistics

ALPHA = np.tile([0.0, 0.5, 1.0], 4)
SEED = np.repeat(np.arange(4), 3)


def dummies(*labels: np.ndarray) -> np.ndarray:
    """Indicator columns of each labelling: a plain regression with these is the oracle of every centring."""
    return np.concatenate([(label[:, None] == np.unique(label)).astype(float) for label in labels], axis=1)


def regression(y: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.column_stack(columns), y, rcond=None)[0]


def noisy(rng: np.random.Generator, effect: float = 0.0) -> np.ndarray:
    return effect * ALPHA + rng.normal(size=4)[SEED] + 0.3 * rng.normal(size=12)


# --- slope --------------------------------------------------------------------------------------------------------


def test_slope_is_the_regression_with_a_level_for_every_seed() -> None:
    rng = np.random.default_rng([1])
    x, y, seed = rng.normal(size=17), rng.normal(size=17), np.r_[SEED, [0, 1, 1, 3, 3]]
    assert statistics.slope(x, y, seed).value == pytest.approx(regression(y, x, dummies(seed))[0], rel=1e-12)


def test_slope_interval_is_the_t_interval_over_the_seeds_own_slopes() -> None:
    y = noisy(np.random.default_rng([2]), 1.0)
    slopes = [stats.linregress(ALPHA[s == SEED], y[s == SEED]).slope for s in range(4)]
    found = statistics.slope(ALPHA, y, SEED)
    low, high = stats.t.interval(0.95, 3, np.mean(slopes), stats.sem(slopes))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(slopes), low, high), rel=1e-9)
    assert (found.n, found.clusters) == (12, 4) and "3 degrees of freedom" in found.method


def test_slope_p_is_the_full_enumeration_within_seed() -> None:
    y = noisy(np.random.default_rng([3]), 0.3)
    own = [[stats.linregress(p, y[s == SEED]).slope for p in itertools.permutations((0.0, 0.5, 1.0))] for s in range(4)]
    all_slopes = np.array([sum(choice) for choice in itertools.product(*own)])
    observed = abs(sum(o[0] for o in own))
    found = statistics.slope(ALPHA, y, SEED)
    assert found.p == pytest.approx(np.mean(np.abs(all_slopes) >= observed - 1e-9))
    assert "all 1,296 arrangements, smallest possible p 0.0015" in found.method


def test_slope_holds_a_stratum_fixed() -> None:
    rng = np.random.default_rng([4])
    alpha, shared, seed = (a.reshape(-1) for a in np.meshgrid([0, 0.5, 1], [0, 1], range(4), indexing="ij"))
    y = 0.2 * alpha + 5.0 * shared + 0.01 * rng.normal(size=24)
    found = statistics.slope(alpha, y, seed, stratum=shared, resamples=500)
    block = seed + 4 * shared
    assert found.value == pytest.approx(regression(y, alpha, dummies(block))[0], rel=1e-9)
    assert found.p == pytest.approx(1 / 501), "the stratum's own large effect must not enter the permutations"
    assert statistics.slope(alpha, y, seed, resamples=500).p > 0.2


def test_slope_sampled_permutations_add_one_and_repeat_with_the_seed() -> None:
    x, seed = np.tile(np.arange(6.0), 4), np.repeat(np.arange(4), 6)
    y = x + 0.01 * np.random.default_rng([5]).normal(size=24)
    found = statistics.slope(x, y, seed, resamples=199)
    assert found.p == pytest.approx(1 / 200) and "199 random arrangements" in found.method
    assert found == statistics.slope(x, y, seed, resamples=199)


def test_slope_bootstraps_from_twenty_seeds() -> None:
    rng = np.random.default_rng([6])
    seed, x = np.repeat(np.arange(24), 3), np.tile([0.0, 0.5, 1.0], 24)
    y = x + rng.normal(size=24)[seed] + rng.normal(size=72)
    found = statistics.slope(x, y, seed, resamples=800)
    own = np.array([stats.linregress(x[seed == s], y[seed == s]).slope for s in range(24)])
    low, high = np.quantile([rng.choice(own, 24).mean() for _ in range(4000)], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.12) and "bootstrap" in found.method


def test_one_seed_has_no_interval_and_says_so() -> None:
    found = statistics.slope([0, 0.5, 1], [1, 2, 4], [0, 0, 0])
    assert math.isnan(found.low) and math.isnan(found.high) and "one seed: no interval" in found.method
    assert found.p == pytest.approx(2 / 6)


# --- under the null, and covering the truth ---------------------------------------------------------------------------


def test_intervals_cover_and_p_is_uniform_under_the_null() -> None:
    rng, covered, p = np.random.default_rng([7]), 0, []
    for _ in range(500):
        y = noisy(rng) + 0.7 * ALPHA
        found = statistics.slope(ALPHA, y, SEED)
        covered += found.low <= 0.7 <= found.high
        p.append(statistics.slope(ALPHA, y - 0.7 * ALPHA, SEED).p)
    assert 0.92 <= covered / 500 <= 0.98
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_percentile_bootstrap_of_four_seeds_covers_too_rarely() -> None:
    """Why the stated interval is the t interval there."""
    rng = np.random.default_rng([8])
    slopes = rng.normal(size=(600, 4))
    draws = slopes[:, rng.integers(0, 4, size=(400, 4))].mean(axis=2)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.88


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
def test_correlations_hold_their_level_where_overlap_moves_the_one_and_seeds_move_both(kind: str) -> None:
    rng, overall, inside, covered = np.random.default_rng([9]), [], [], 0
    for _ in range(250):
        x = 2 * ALPHA + 0.5 * rng.normal(size=4)[SEED] + rng.normal(size=12)
        y = 0.5 * rng.normal(size=4)[SEED] + rng.normal(size=12)
        overall.append(statistics.correlation(x, y, SEED, kind=kind).p)
        found = statistics.within(x, y, ALPHA, SEED, kind=kind)
        inside.append(found.p)
        covered += found.low <= 0 <= found.high
    assert np.mean(np.array(overall) <= 0.05) < 0.09 and np.mean(np.array(inside) <= 0.05) < 0.09
    assert covered / 250 > 0.91


def test_within_does_not_see_what_overlap_alone_moves() -> None:
    rng, p = np.random.default_rng([10]), []
    for _ in range(200):
        x, y = (3 * ALPHA**2 + 0.3 * rng.normal(size=12) for _ in range(2))
        p.append(statistics.within(x, y, ALPHA, SEED).p)
    assert statistics.correlation(x, y, SEED).p < 0.01
    assert np.mean(np.array(p) <= 0.05) < 0.1


# --- interaction --------------------------------------------------------------------------------------------------


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, s = (v.reshape(-1) for v in np.meshgrid([0, 0.5, 1], [0, 1, 3], range(4), indexing="ij"))
    return a, b.astype(float), s


def test_interaction_is_the_product_term_of_the_regression() -> None:
    a, b, s = grid()
    y = 2 * a + 3 * b + 0.4 * a * b + np.random.default_rng([11]).normal(size=36)
    expected = regression(y, a * b, a, b, dummies(s))[0]
    assert statistics.interaction(a, b, y, s, resamples=99).value == pytest.approx(expected, rel=1e-9)
    own = [regression(y[s == k], a[s == k] * b[s == k], a[s == k], b[s == k], np.ones(9))[0] for k in range(4)]
    found = statistics.interaction(a, b, y, s, resamples=99)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(own), stats.sem(own)), rel=1e-9)


def test_interaction_p_is_uniform_under_large_main_effects() -> None:
    a, b, s = grid()
    rng = np.random.default_rng([12])
    p = [
        statistics.interaction(a, b, 5 * a + 2 * b + rng.normal(size=4)[s] + rng.normal(size=36), s, resamples=199).p
        for _ in range(300)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.005
    assert statistics.interaction(a, b, a * b + 0.1 * rng.normal(size=36), s, resamples=199).p == pytest.approx(1 / 200)


# --- correlation --------------------------------------------------------------------------------------------------


def test_correlation_is_scipys_and_its_p_enumerates_within_seed() -> None:
    rng = np.random.default_rng([13])
    x, y, s = rng.normal(size=9), rng.normal(size=9), np.repeat(np.arange(3), 3)
    assert statistics.correlation(x, y, s).value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert statistics.correlation(x, y, s, kind="pearson").value == pytest.approx(stats.pearsonr(x, y).statistic)
    orders = [
        np.concatenate(o)
        for o in itertools.product(*(itertools.permutations(np.flatnonzero(s == k)) for k in range(3)))
    ]
    drawn = np.array([np.dot(x, y[o]) for o in orders])
    expected = np.mean(np.abs(drawn - drawn.mean()) >= abs(drawn[0] - drawn.mean()) - 1e-12)
    assert statistics.correlation(x, y, s, kind="pearson").p == pytest.approx(expected)


def test_correlation_of_single_pairs_is_the_exact_permutation_test() -> None:
    rng = np.random.default_rng([14])
    x, y = rng.normal(size=7), rng.normal(size=7)
    oracle = stats.permutation_test(
        (x,),
        lambda v: abs(stats.pearsonr(v, y).statistic),
        permutation_type="pairings",
        n_resamples=np.inf,
        alternative="greater",
    )
    assert statistics.correlation(x, y, range(7), kind="pearson").p == pytest.approx(oracle.pvalue)


def test_within_is_the_correlation_of_centred_values_and_exchanges_whole_seeds() -> None:
    rng = np.random.default_rng([15])
    x, y = noisy(rng, 3), noisy(rng, 3)
    free = [v - dummies(ALPHA) @ regression(v, dummies(ALPHA)) for v in (x, y)]
    found = statistics.within(x, y, ALPHA, SEED, kind="pearson")
    assert found.value == pytest.approx(stats.pearsonr(*free).statistic)
    table = free[1].reshape(4, 3)
    drawn = [np.dot(free[0], table[list(o)].reshape(-1)) for o in itertools.permutations(range(4))]
    assert found.p == pytest.approx(np.mean(np.abs(drawn) >= abs(drawn[0]) - 1e-12))
    assert "all 24 arrangements" in found.method


def test_within_leaves_an_incomplete_seed_in_place() -> None:
    rng = np.random.default_rng([16])
    x, y = rng.normal(size=12)[:-1], rng.normal(size=12)[:-1]
    assert "all 6 arrangements" in statistics.within(x, y, ALPHA[:-1], SEED[:-1]).method


def test_within_takes_two_factors_as_strata_and_keeps_its_ends_inside_one() -> None:
    a, b, s = grid()
    x = a + b + 0.1 * s
    found = statistics.within(x, 2 * x, np.column_stack([a, b]), s)
    assert found.value == pytest.approx(1.0) and -1 <= found.low <= found.high <= 1


# --- mediation ----------------------------------------------------------------------------------------------------


def test_mediation_finds_known_coefficients_and_its_parts_add_up() -> None:
    rng = np.random.default_rng([17])
    s, x = np.repeat(np.arange(40), 5), np.tile(np.linspace(0, 1, 5), 40)
    m = 0.8 * x + rng.normal(size=40)[s] + 0.2 * rng.normal(size=200)
    y = 0.5 * m + 0.3 * x + rng.normal(size=40)[s] + 0.1 * rng.normal(size=200)
    found = statistics.mediation(x, m, y, s, resamples=300)
    b, direct = regression(y, m, x, dummies(s))[:2]
    assert (found.second.value, found.direct.value) == pytest.approx((b, direct), rel=1e-9)
    assert found.indirect.value == pytest.approx(found.first.value * found.second.value)
    assert found.total.value == pytest.approx(found.direct.value + found.indirect.value)
    assert found.indirect.low <= 0.4 <= found.indirect.high and found.direct.low <= 0.3 <= found.direct.high
    assert found.indirect.p < 0.01 and math.isnan(found.direct.p)


def test_mediation_without_a_second_path_is_not_found() -> None:
    rng, p = np.random.default_rng([18]), []
    for _ in range(150):
        m, y = noisy(rng, 3.0), noisy(rng, 3.0)
        p.append(statistics.mediation(ALPHA, m, y, SEED).indirect.p)
    assert np.mean(np.array(p) <= 0.05) < 0.1


# --- families and rows --------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert len(statistics.holm([])) == 0


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng([19]).random(30) ** 2
    assert statistics.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))


def test_mean_is_scipys_t_interval() -> None:
    values = [0.71, 0.74, 0.69, 0.72]
    found = statistics.mean(values)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 3, np.mean(values), stats.sem(values)))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert math.isnan(statistics.mean([0.5]).low)


def test_effect_rows_hold_no_nan_and_families_are_adjusted_apart() -> None:
    one_seed = statistics.slope([0, 0.5, 1], [1, 2, 4], [0, 0, 0])
    row = statistics.effect("data_overlap", "cka", "alpha", one_seed, unit="per unit of overlap")
    assert row["low"] is None and row["n_seeds"] == 1 and row["n_pairs"] == 3
    kinds = [
        ("cka", "alpha", 0.01),
        ("cknna", "alpha", 0.03),
        ("cka", "within:cka", 0.04),
        ("cka", "interaction", None),
    ]
    rows = [{**row, "outcome": outcome, "factor": factor, "p": p} for outcome, factor, p in kinds]
    assert [r["p_holm"] for r in statistics.adjust(rows)] == [0.02, 0.03, 0.04, None]
    assert "p_holm" not in rows[0], "the rows that came in stay as they were"


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.slope([0, 1, 2], [0, 1], [0, 0, 0]), r"\[slope\] expected y with 3 values like x, got 2"),
        (lambda: statistics.slope([0, 1], [0, math.nan], [0, 0]), r"\[slope\] expected y finite, got nan at .* 1"),
        (lambda: statistics.slope([0, 1], [0, 1], [0]), r"expected cluster with 2 values, got shape \(1,\)"),
        (lambda: statistics.slope([0, 1], [0, 1], [0, 1]), r"expected x to vary within at least one cluster"),
        (lambda: statistics.slope([], [], []), r"\[slope\] expected x \[n\] with n >= 1, got shape \(0,\)"),
        (lambda: statistics.interaction(ALPHA, ALPHA > 2, ALPHA, SEED), r"\[interaction\] expected x1 and x2 crossed"),
        (lambda: statistics.correlation(ALPHA, ALPHA, SEED, kind="kendall"), r"\[correlation\] .* got 'kendall'"),
        (lambda: statistics.correlation(ALPHA, 0 * ALPHA, SEED), r"\[correlation\] expected y to vary, got a constant"),
        (lambda: statistics.within(ALPHA, SEED, ALPHA, SEED), r"\[within\] expected x to vary within a stratum"),
        (lambda: statistics.mediation(ALPHA, 2 * ALPHA, ALPHA, SEED), r"\[mediation\] expected m to vary at fixed x"),
        (lambda: statistics.mean([]), r"\[mean\] expected values \[n\] finite with n >= 1"),
        (lambda: statistics.holm([0.5, math.nan]), r"\[holm\] expected p \[n\] in \[0, 1\]"),
        (lambda: statistics.benjamini_hochberg([1.5]), r"\[benjamini_hochberg\] expected p \[n\] in \[0, 1\]"),
    ],
)
def test_errors_say_argument_expected_and_got(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
