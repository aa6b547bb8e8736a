"""Split half: do two random halves of the builds say the same about a feature?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from ..context.context import Context
from ..context.population import Population
from ..schemas.catalogue import Plan, experiment
from ..schemas.job import Job
from ..schemas.result import Aggregates, Findings, Followup, Row, Table
from ..schemas.spec import ExperimentSpec, Variables
from .design.high import HighPercentile, HighSplit, read_percentile, split_high
from .design.report import CORRELATIONAL, diagnostics, followup, observed_scope, plural, quiet_findings
from .design.specificity import SPECIFIC
from .parts.splits.compare import Reliability, reliability
from .parts.splits.values import WORDS, Metric
from .stats.groups import MIN_CLUSTERS
from .stats.reliability import spearman_brown

STABLE = 0.7
OLD_METRICS = {"token_frequency_correlation": "token_frequency", "pagerank_correlation": "pagerank"}
RANGE_NOTE = (
    "range_low to range_high holds the middle 95 % of the splits; it is not a confidence interval, as the splits share "
    "their examples"
)


def _todays_metric(value: object) -> object:
    """The metric of an older spec by its name of today."""
    return OLD_METRICS.get(value, value) if isinstance(value, str) else value


class SplitHalfVariables(Variables):
    """What is compared between halves, and how often."""

    n_splits: int = Field(default=10, ge=1, le=1000, description="Random splits of the builds.")
    metric: Annotated[Metric, BeforeValidator(_todays_metric)] = Field(
        default="token_effects",
        description="Read off each half: tokens' within-weapon effects, their rates among high examples, weapon "
        "means, or PageRanks of tokens held together.",
    )
    high_percentile: HighPercentile = 90.0


class SplitHalfSpec(ExperimentSpec):
    """Spec of split-half reliability."""

    type: Literal["split_half"] = "split_half"
    variables: SplitHalfVariables = SplitHalfVariables()


class SplitCorrelation(Row):
    """How the two halves of one split agree."""

    split: int = Field(description="Number of the split, from 1.")
    pearson: float | None = Field(description="Correlation of the units' values in the two halves.")
    spearman: float | None = Field(description="The same of their ranks.")
    spearman_brown: float | None = Field(
        description="Reliability of the whole, 2 r / (1 + r) of the Pearson correlation; null unless r > 0."
    )
    n_units: int = Field(description="Units (tokens or weapons) with a value in both halves.")
    n_left_out: int = Field(description="Units without a value in one of them.")
    n_first: int = Field(description="Examples in the first half.")
    n_second: int = Field(description="Examples in the second half.")
    reason: str | None = Field(description="Why a number is null.")


TABLES: dict[str, type[Row]] = {"split_correlations": SplitCorrelation}


def plan(spec: SplitHalfSpec, ctx: Context) -> Plan:
    """What the splits would read."""
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    return Plan(
        contexts=len(population),
        conditions=f"{plural(spec.variables.n_splits, 'random split')} of the builds in halves",
        notes=population.warnings,
    )


@experiment(
    "split_half",
    spec=SplitHalfSpec,
    plan=plan,
    cli="split-half",
    summary="Whether two random halves of the builds say the same about the feature: reliability, not meaning.",
    tables=TABLES,
    methods=("observational",),
    cost="data",
    toolset="validation",
)
def run(spec: SplitHalfSpec, ctx: Context, job: Job) -> Findings:
    """Split the builds at random, read the metric off each half, correlate.

    The mean correlation is compared with that of random directions on the same splits, because in a network almost
    any direction is reliable: it says how well the data determine the numbers, not whether the feature means anything.
    """
    population = ctx.population(spec.dataset_slice, spec.feature_id)
    quiet = quiet_findings(spec, ctx, population, job, method="observational", models=TABLES)
    if quiet is not None:
        return quiet
    metric = spec.variables.metric
    high = _high(spec, population, job)
    job.warn(CORRELATIONAL)
    if ctx.data.build_id is None:
        job.warn(
            "builds are unknown: distinct (weapon, set) are kept together, which may leave one build in both halves"
        )
    found = reliability(
        ctx,
        spec.feature_id,
        population,
        metric=metric,
        high=high,
        n_splits=spec.variables.n_splits,
        seed=spec.dataset_slice.random_seed,
        job=job,
    )
    table = job.partial(_table(found, len(population)))
    custom = _numbers(spec, found, high)
    plain = diagnostics(population, ctx.min_effect(spec.feature_id), ctx.effective_max(spec.feature_id), job)
    plain.notes.append(RANGE_NOTE)
    return Findings(
        headline=_headline(spec, population, found, custom),
        aggregates=Aggregates(n_samples=len(population), custom=custom),
        tables=[table],
        diagnostics=plain,
        followups=_followups(spec, custom),
    )


def _high(spec: SplitHalfSpec, population: Population, job: Job) -> HighSplit | None:
    """The high examples, where the metric asks for them."""
    if spec.variables.metric == "token_frequency":
        return split_high(population, read_percentile(spec.variables.high_percentile, job), job)
    if "high_percentile" in spec.variables.model_fields_set:
        job.warn(f"high_percentile is not used by metric {spec.variables.metric!r}: only token_frequency reads it")
    return None


def _too_few() -> str:
    return f"fewer than {MIN_CLUSTERS} builds: too few to split"


def _table(found: Reliability | None, n: int) -> Table:
    if found is None:
        return Table.of("split_correlations", SplitCorrelation, [], [_too_few()])
    agreement, splits = found.agreement, range(len(found.agreement.pearson))
    whole = spearman_brown(agreement.pearson)
    reasons = [agreement.reason(split) for split in splits]
    columns = {
        "split": [split + 1 for split in splits],
        "pearson": agreement.pearson,
        "spearman": agreement.spearman,
        "spearman_brown": whole,
        "n_units": agreement.n_units,
        "n_left_out": agreement.n_left_out,
        "n_first": found.n_first,
        "n_second": n - found.n_first,
        "reason": [
            reasons[split] or ("the halves do not agree" if np.isnan(whole[split]) else None) for split in splits
        ],
    }
    return Table.from_columns("split_correlations", SplitCorrelation, columns)


def _numbers(spec: SplitHalfSpec, found: Reliability | None, high: HighSplit | None) -> dict[str, Any]:
    """Aggregates over the splits; all null, with the reason, where no split has a correlation."""
    known = np.zeros(0) if found is None else found.agreement.pearson[~np.isnan(found.agreement.pearson)]
    numbers: dict[str, Any] = {
        "method": "observational",
        "metric": spec.variables.metric,
        "n_splits": spec.variables.n_splits,
    }
    if high is not None:
        numbers |= high.numbers()
    if found is None or not len(known):
        reason = _too_few() if found is None else found.agreement.reason(0)
        names = ("mean", "std", "min", "max")
        unknown = {f"{name}_correlation": None for name in names} | dict.fromkeys(
            ("mean_spearman", "range_low", "range_high", "reliability", "stability_passed", "specificity_p")
        )
        return numbers | unknown | {"verdict": "nothing_specific", "reason": reason}
    whole = float(spearman_brown(np.asarray(found.mean)))
    passed = found.mean >= STABLE
    specific = found.specificity_p is not None and found.specificity_p <= SPECIFIC
    low, high_end = np.quantile(known, [0.025, 0.975])
    numbers |= {
        "n_known_splits": len(known),
        "mean_correlation": found.mean,
        "std_correlation": float(known.std(ddof=1)) if len(known) > 1 else None,
        "min_correlation": float(known.min()),
        "max_correlation": float(known.max()),
        "mean_spearman": float(np.nanmean(found.agreement.spearman)),
        "range_low": float(low),
        "range_high": float(high_end),
        "reliability": whole,
        "stability_passed": passed,
        "n_units": int(np.median(found.agreement.n_units)),
        "specificity_p": found.specificity_p,
        "n_directions": len(found.null),
        "n_compared": found.n_compared,
        "compared_correlation": found.compared,
        "null_median_correlation": float(np.median(found.null)) if len(found.null) else None,
        "verdict": "present" if specific and passed else "nothing_specific",
    }
    if len(known) == 1:
        numbers["std_reason"] = "one split has no spread"
    if np.isnan(whole):
        numbers["reliability_reason"] = "the halves do not agree (mean correlation not above 0)"
    if found.specificity_p is None:
        numbers["specificity_reason"] = "no random directions to compare with: pooled vectors are unknown"
    return numbers


def _headline(spec: SplitHalfSpec, population: Population, found: Reliability | None, custom: dict[str, Any]) -> str:
    what = f"{WORDS[spec.variables.metric][0]} of feature {spec.feature_id}"
    scope = observed_scope(population)
    if found is None or custom["mean_correlation"] is None:
        return f"reliability only: {what} cannot be compared ({custom['reason']}); nothing specific is claimed; {scope}"
    agree = "agree between halves" if custom["stability_passed"] else "agree poorly between halves"
    splits = (
        f"mean of {plural(custom['n_known_splits'], 'split')}, {custom['range_low']:.2f} to {custom['range_high']:.2f}"
    )
    start = f"reliability only: {what} {agree}: r = {custom['mean_correlation']:.2f} ({splits})"
    return f"{start}; {_against(custom, len(population))}; nothing specific is claimed; {scope}"


def _against(custom: dict[str, Any], n: int) -> str:
    """The comparison with random directions in words."""
    if custom["specificity_p"] is None:
        return "random directions are unknown here, and most would be as reliable"
    specific = custom["specificity_p"] <= SPECIFIC
    start = "higher than most random directions" if specific else "not meaning: random directions score as high"
    own = ""
    if custom["n_compared"] != n:
        own = f"on {custom['n_compared']:,} of the examples r = {custom['compared_correlation']:.2f}, theirs: "
    median = f"median r = {custom['null_median_correlation']:.2f} over {custom['n_directions']} of them"
    end = ", but reliability is not meaning" if specific else ""
    return f"{start} ({own}{median} on the same splits, p = {custom['specificity_p']:.2g}){end}"


def _followups(spec: SplitHalfSpec, custom: dict[str, Any]) -> list[Followup]:
    if custom["stability_passed"] is not False:
        return []
    statistic = "max_weapon_effect" if spec.variables.metric == "weapon_means" else "max_token_effect"
    reason = "the halves do not agree: does the feature differ from shuffled data at all?"
    return [followup(spec, "shuffle_null", {"statistic": statistic}, reason)]
