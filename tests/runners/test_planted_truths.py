"""What was planted in the demo network, asked of every experiment: how many answers are right?

The rules are those of the manifest, which hold in the network over their full factorial (R2 above 0.999, measured when
the bundle was built and again in the bundle's own tests), so a rule is the truth that an answer is scored against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.experiment_type import DESIGNED
from mechinterp_runner.schemas.facts import WEAPONS

Check = Callable[[Any], bool]
FEW = {"sample_size": 150}
SCU, QR, SWIM, RES = "special_charge_up", "quick_respawn", "swim_speed_up", "ink_resistance_up"
RUN, QSJ, STEALTH, POWER, SAVER = (
    "run_speed_up",
    "quick_super_jump",
    "stealth_jump",
    "special_power_up",
    "special_saver",
)
MAIN, COMEBACK, SUBS, SUBRES, INTENSIFY = (
    "ink_saver_main",
    "comeback",
    "ink_saver_sub",
    "sub_resistance_up",
    "intensify_action",
)
RANDOM, DEAD = (13, 14, 15), (16, 17)
TOKEN_RULES: dict[int, set[str]] = {
    0: {SCU},
    1: {QR},
    2: {SWIM, RES},
    3: {RUN, RES},
    4: {QSJ, STEALTH},
    5: {POWER, SAVER},
    6: {SWIM, MAIN, COMEBACK},
    9: {SUBS},
    10: {SUBRES, QSJ},
    11: {SWIM},
    12: {INTENSIFY},
}


class Question(NamedTuple):
    """One question to one experiment, and what the answer must say."""

    feature: int
    type: str
    variables: dict[str, Any]
    check: Check
    slice: dict[str, Any]

    def name(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.variables.items())
        return f"{self.feature}:{self.type}({given})"


def ask_of(feature: int, kind: str, check: Check, *, part: dict[str, Any] | None = None, **variables: Any) -> Question:
    return Question(feature, kind, variables, check, part or {})


def quiet(answer: Any) -> bool:
    return answer.headline.startswith("nothing") or answer.headline.startswith("reliability only")


def step(family: str, rung: int, height: float) -> Check:
    def check(answer: Any) -> bool:
        custom = answer.custom
        right = custom["shape"] == "step" and custom["threshold_rung"] == rung and custom["verdict"] == "present"
        return right and abs(custom["max_rung_delta"] / height - 1) < 0.1 and family in answer.headline

    return check


def acts(sign: int) -> Check:
    def check(answer: Any) -> bool:
        relation = answer.findings.findings[0].relation
        verdict = answer.custom["verdict"] in {"present", "conditional"}
        return verdict and relation.startswith("raises" if sign > 0 else "lowers")

    return check


def core_is(*units: str) -> Check:
    return lambda answer: answer.custom["top_core_units"] == sorted(units) and answer.custom["verdict"] == "present"


def pair_is(pattern: str, *units: str) -> Check:
    """The leading pair is that one, with that pattern."""

    def check(answer: Any) -> bool:
        found = answer.rows("pairs")[0]
        names = {found["unit_a"], found["unit_b"]}
        named = all(any(name.startswith(unit) for name in names) for unit in units)
        return named and found["pattern"] == pattern and not quiet(answer)

    return check


def heat_is(pattern: str) -> Check:
    return lambda answer: answer.custom["pattern"] == pattern and not quiet(answer)


def names_all(*words: str) -> Check:
    return lambda answer: not quiet(answer) and all(word in answer.headline for word in words)


def influences(enhancers: set[str], suppressors: set[str]) -> Check:
    """Every unit of the rule is confirmed on its side, and nothing else that the network denies is."""

    def check(answer: Any) -> bool:
        causal = {row["token"]: row for row in answer.rows("all_tokens") if row["causal_delta"] is not None}
        up = all(causal[unit]["mean_responders"] > 0 for unit in enhancers)
        down = all(causal[unit]["mean_responders"] < 0 for unit in suppressors)
        acting = {row["causal_status"] for unit in enhancers | suppressors for row in [causal[unit]]}
        return up and down and acting <= {"present", "conditional"} and not quiet(answer)

    return check


def top_unit_in(answer: Any, units: set[str]) -> bool:
    return not quiet(answer) and any(unit in answer.headline for unit in units)


def sweeps() -> list[Question]:
    kind = "family_1d_sweep"
    steps = [(0, SCU, 29, 2.0), (9, SUBS, 6, 2.0), (12, INTENSIFY, 12, 1.7)]
    asked = [ask_of(feature, kind, step(family, rung, high), family=family) for feature, family, rung, high in steps]
    asked.append(
        ask_of(
            1, kind, lambda a: a.custom["shape"] == "graded" and abs(a.custom["trend"] * 57 / 3.0 - 1) < 0.1, family=QR
        )
    )
    parts = [(2, SWIM, 1), (2, RES, -1), (3, RUN, 1), (3, RES, 1), (4, QSJ, 1), (4, STEALTH, 1), (5, POWER, 1)]
    parts += [(5, SAVER, 1), (6, SWIM, 1), (6, MAIN, 1), (6, COMEBACK, -1), (10, SUBRES, 1), (10, QSJ, 1)]
    wide = {"sample_size": 700}
    asked += [ask_of(feature, kind, acts(sign), part=wide, family=family) for feature, family, sign in parts]
    asked.append(ask_of(11, kind, acts(1), part=FEW, family=SWIM, encoding="single", rungs=[12]))
    silent = [(0, QR), (3, SCU), (7, SCU), (8, SWIM), (11, RUN), (12, SUBS)]
    asked += [ask_of(feature, kind, quiet, part=FEW, family=family) for feature, family in silent]
    return asked


def pairs() -> list[Question]:
    few, kind, heat = {"sample_size": 200}, "pairwise_interactions", "family_2d_heatmap"
    asked: list[Question] = []
    rules = [
        (2, "suppression", (SWIM, RES)),
        (3, "and", (RUN, RES)),
        (4, "and", (QSJ, STEALTH)),
        (5, "or", (POWER, SAVER)),
        (6, "and", (SWIM, MAIN)),
        (10, "and", (SUBRES, QSJ)),
    ]
    for feature, pattern, units in rules:
        candidates = [*units, "ink_recovery_up", "haunt"]
        asked.append(ask_of(feature, kind, pair_is(pattern, *units), part=few, candidate_tokens=candidates))
        rungs = {"rungs_x": [12, 57], "rungs_y": [10] if units[1] == STEALTH else [12, 57]}
        found = {"part": few, "family_x": units[0], "family_y": units[1], **rungs}
        asked.append(ask_of(feature, heat, heat_is(pattern), **found))
    for feature, family in ((0, SCU), (1, QR), (12, INTENSIFY)):
        given = {"part": few, "candidate_tokens": [f"{family}_29", SUBS, "haunt"]}
        asked.append(ask_of(feature, kind, lambda a: not a.rows("synergies") and not a.rows("redundancies"), **given))
    asked.append(ask_of(6, "conditional_interactions", _blocked, part=few, **MODULATED))
    return asked


MODULATED = {"modulator_token": COMEBACK, "candidate_tokens": [SWIM, MAIN, "ink_recovery_up"]}


def _blocked(answer: Any) -> bool:
    found = answer.rows("modulated")[0]
    return {found["unit_a"].startswith(SWIM), found["unit_b"].startswith(SWIM)} == {True, False} and (
        found["reading"] == "blocks" and not quiet(answer)
    )


def weapons() -> list[Question]:
    crab = {"part": {"sample_size": 60}, "method": "interventional"}
    shooter = WEAPONS[40].name
    return [
        ask_of(7, "weapon_sweep", lambda a: a.custom["shared_part"] == "special: Crab Tank"),
        ask_of(7, "kit_sweep", lambda a: a.custom["top_special"] == "Crab Tank" and "Crab Tank" in a.headline),
        ask_of(7, "kit_sweep", names_all("Crab Tank"), **crab),
        ask_of(7, "weapon_group_analysis", lambda a: not quiet(a) and _all_have(a, "Crab Tank")),
        ask_of(7, "feature_overview", names_all("Crab Tank")),
        ask_of(7, "shuffle_null", lambda a: a.custom["significant"] and not quiet(a), statistic="max_weapon_effect"),
        ask_of(8, "weapon_sweep", lambda a: a.custom["dominant_weapon_detected"] and a.custom["top_weapon"] == shooter),
        ask_of(8, "weapon_sweep", names_all(shooter), **crab),
        ask_of(8, "kit_sweep", lambda a: a.custom["verdict"] == "nothing_specific" or "one weapon" in a.headline),
        ask_of(8, "weapon_group_analysis", names_all(shooter)),
        ask_of(8, "feature_overview", names_all(shooter)),
        ask_of(8, "core_coverage_analysis", names_all(shooter)),
        ask_of(9, "weapon_sweep", quiet, **crab),
        ask_of(9, "kit_sweep", quiet, **crab),
        ask_of(0, "weapon_sweep", quiet, **crab),
        ask_of(3, "kit_sweep", quiet, **crab),
    ]


def _all_have(answer: Any, special: str) -> bool:
    """Every weapon that is called enriched has the special."""
    by_name = {kit.name: kit for kit in WEAPONS.values()}
    return all(by_name[name].special == special for name in answer.custom["enriched_weapons"])


def cores() -> list[Question]:
    kind, few = "minimal_cores", {"max_examples": 24}
    found = {0: [SCU], 1: [QR], 3: [RUN, RES], 4: [QSJ, STEALTH], 9: [SUBS], 10: [SUBRES, QSJ], 12: [INTENSIFY]}
    asked = [ask_of(feature, kind, core_is(*units), **few) for feature, units in found.items()]
    asked += [ask_of(feature, kind, core_is("weapon"), **few) for feature in (7, 8)]
    asked.append(
        ask_of(5, kind, lambda a: {row["core"] for row in a.rows("cores")[:2]} == {POWER, SAVER}, max_examples=40)
    )
    return asked


def tokens() -> list[Question]:
    """What the data and the network say of single abilities."""
    asked: list[Question] = []
    for feature, units in TOKEN_RULES.items():
        down = {2: {RES}, 6: {COMEBACK}}.get(feature, set())
        up = units - down
        if feature != 11:
            asked.append(ask_of(feature, "token_influence_sweep", influences(up, down), part={"sample_size": 400}))
        asked.append(ask_of(feature, "feature_overview", lambda a, up=up: top_unit_in(a, up)))
        asked.append(ask_of(feature, "shuffle_null", lambda a, units=units: top_unit_in(a, units), n_shuffles=100))
        if feature != 11:
            asked.append(
                ask_of(feature, "core_coverage_analysis", lambda a, up=up: set(a.custom["covering_tokens"]) == up)
            )
            asked.append(ask_of(feature, "frequent_itemsets", lambda a, up=up: top_unit_in(a, up)))
    pair = {"family": SWIM, "rungs": [3, 12]}
    asked.append(
        ask_of(11, "within_family_interference", lambda a: a.custom["interfering_pairs"] == [[3, 12]], part=FEW, **pair)
    )
    asked.append(ask_of(0, "within_family_interference", quiet, part=FEW, family=SCU, rungs=[3, 12, 29]))
    wide = {"sample_size": 400}
    asked.append(ask_of(4, "binary_presence_effect", names_all(STEALTH, "raises"), part=wide))
    asked.append(ask_of(6, "binary_presence_effect", names_all(COMEBACK, "lowers"), part={"sample_size": 1500}))
    asked += [ask_of(feature, "binary_presence_effect", quiet, part=wide) for feature in (0, 3, 8, 10)]
    return asked


REQUIRED: dict[str, dict[str, Any]] = {
    "family_1d_sweep": {"family": SWIM},
    "family_2d_heatmap": {"family_x": SCU, "family_y": STEALTH, "rungs_x": [12, 57]},
    "conditional_interactions": {"modulator_token": COMEBACK, "candidate_tokens": [SWIM, RUN, SCU]},
    "pairwise_interactions": {"candidate_tokens": [SWIM, RUN, SCU, STEALTH]},
    "within_family_interference": {"family": SCU},
    "minimal_cores": {"max_examples": 24},
    "decoder_output_analysis": {"steer": [0]},
}


def nulls(features: tuple[int, ...], check: Check) -> list[Question]:
    asked = []
    for feature in features:
        for kind in DESIGNED:
            few = {"sample_size": 100} if find(kind).cost != "data" and kind != "minimal_cores" else {}
            both = {"method": "observational"} if kind in {"weapon_sweep", "kit_sweep"} else {}
            asked.append(ask_of(feature, kind, check, part={} if both else few, **REQUIRED.get(kind, {}), **both))
    return asked


def dead(answer: Any) -> bool:
    return answer.headline.startswith("nothing found") and answer.findings.findings[0].status == "dead"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def score(ask: Any, demo: Any, questions: list[Question]) -> tuple[int, list[str]]:
    """Questions answered right, and those that were not, with their headlines."""
    wrong: list[str] = []
    for question in questions:
        answer = ask(demo, question.type, question.feature, slice=question.slice, **question.variables)
        if not question.check(answer):
            wrong.append(f"{question.name()}: {answer.headline}")
    return len(questions) - len(wrong), wrong


def test_the_rules_hold_in_the_network_over_their_factorial(demo):
    for rule in demo.bundle.manifest.planted:
        if rule.feature_id in {*TOKEN_RULES, 7, 8}:
            assert rule.fidelity is not None
            assert rule.fidelity.r2_held_out >= 0.99


@pytest.mark.parametrize("group", [sweeps, pairs, weapons, cores, tokens])
def test_at_least_95_percent_of_the_questions_are_answered_right(group, ask, demo):
    questions = group()
    right, wrong = score(ask, demo, questions)
    assert right >= 0.95 * len(questions), "\n".join(wrong)


def test_a_random_direction_is_called_nothing_by_every_type(ask, demo):
    _, wrong = score(ask, demo, nulls(RANDOM, quiet))
    assert wrong == []


def test_a_dead_feature_is_called_dead_by_every_type(ask, demo):
    _, wrong = score(ask, demo, nulls(DEAD, dead))
    assert wrong == []
