"""A world whose truth is known: pooled vectors that are rules of the token set, readable by an identity SAE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle, BundleContents, write_bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.token_sets import TokenSets, levels_of
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.facts import MAIN_ONLY, STACKABLE, STANDARD_RUNGS
from mechinterp_runner.schemas.facts import WEAPONS as WEAPON_FACTS
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.result import Findings
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.schemas.vocabulary import Vocabulary

WEAPONS = (0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71, 80, 81, 90, 91, 100, 101, 3000, 3010)
NOISE = 24
Rule = Callable[[dict[str, np.ndarray], np.ndarray, TokenSets], np.ndarray]


def vocabulary_mapping() -> dict[str, int]:
    tokens = [f"{family}_{rung}" for family in STACKABLE for rung in STANDARD_RUNGS] + list(MAIN_ONLY)
    tokens += ["<NULL>", "<PAD>", "<MASK>"]
    order = np.random.default_rng(5).permutation(len(tokens))
    return {token: int(index) for token, index in zip(tokens, order, strict=True)}


def _step(level: np.ndarray, rung: int) -> np.ndarray:
    return (level >= rung).astype(np.float64)


MAPPING = vocabulary_mapping()
SUB = WEAPON_FACTS[40].sub
SUB_WEAPONS = [index for index, weapon in enumerate(WEAPONS) if WEAPON_FACTS[weapon].sub == SUB]

RULES: dict[str, Rule] = {
    "threshold": lambda lv, w, s: 2.0 * _step(lv["special_charge_up"], 29) - 0.5,
    "dose": lambda lv, w, s: 3.0 * lv["quick_respawn"] / 57.0,
    "and": lambda lv, w, s: 2.5 * _step(lv["run_speed_up"], 6) * _step(lv["ink_resistance_up"], 6),
    "or": lambda lv, w, s: 2.0 * np.maximum(_step(lv["special_saver"], 6), _step(lv["special_power_up"], 6)),
    "suppressed": lambda lv, w, s: 2.0 * _step(lv["swim_speed_up"], 3) * (1 - _step(lv["ink_saver_sub"], 3)),
    "dampened": lambda lv, w, s: 2.0 * _step(lv["swim_speed_up"], 3) - 0.9 * _step(lv["ink_saver_main"], 3),
    "weapon": lambda lv, w, s: 2.0 * (w == WEAPONS.index(11)),
    "special": lambda lv, w, s: 2.0 * np.isin(w, [WEAPONS.index(41), WEAPONS.index(21), WEAPONS.index(3000)]),
    "confounded": lambda lv, w, s: 2.0 * _step(lv["sub_power_up"], 6),
    "main_only": lambda lv, w, s: 1.5 * _step(lv["comeback"], 10),
    "dead": lambda lv, w, s: np.full(len(w), -1.0),
    "xor": lambda lv, w, s: 2.0 * np.abs(_step(lv["intensify_action"], 6) - _step(lv["haunt"], 10)),
    "modulated": lambda lv, w, s: (
        2.4 * _step(lv["quick_super_jump"], 6) * _step(lv["sub_resistance_up"], 6) * (1 - _step(lv["tenacity"], 10))
    ),
    "additive": lambda lv, w, s: 1.2 * _step(lv["quick_super_jump"], 6) + 1.5 * _step(lv["ninja_squid"], 10),
    "gap": lambda lv, w, s: 2.0 * s.present[:, MAPPING["swim_speed_up_12"]] * ~s.present[:, MAPPING["swim_speed_up_3"]],
    "sub": lambda lv, w, s: 1.8 * np.isin(w, SUB_WEAPONS),
    "constant": lambda lv, w, s: np.full(len(w), 1.0),
}
RANDOM = ("random_0", "random_1")
"""Directions drawn at random, active on 6 % of the examples: nothing may be said of them."""
FEATURE = {name: index for index, name in enumerate((*RULES, *RANDOM))}


@dataclass
class RuleWorld:
    """Answers pooled vectors by the rules, and counts what it was asked."""

    vocabulary: Vocabulary
    mixing: np.ndarray
    seen: set[bytes] = field(default_factory=set)

    def pooled(self, sets: TokenSets, job: Job | None = None) -> np.ndarray:
        fresh = set(sets.keys().tolist()) - self.seen
        self.seen |= fresh
        if job is not None:
            job.count_passes(len(fresh), len(sets) - len(fresh))
            job.progress(len(fresh), len(fresh))
        return self.vectors(sets)

    def vectors(self, sets: TokenSets) -> np.ndarray:
        levels = levels_of(sets.present, self.vocabulary).astype(np.float64)
        by_family = {family: levels[:, i] for i, family in enumerate(self.vocabulary.families)}
        rules = [rule(by_family, sets.weapon, sets) for rule in RULES.values()]
        noise = np.tanh(levels @ self.mixing)
        return np.hstack([np.stack(rules, axis=1), noise]).astype(np.float32)

    def missing(self, sets: TokenSets) -> np.ndarray:
        keys = np.unique(sets.keys())
        return keys[[key not in self.seen for key in keys.tolist()]]

    def seconds_per_pass(self) -> float | None:
        return 1e-4


def random_builds(vocabulary: Vocabulary, n_builds: int, rng: np.random.Generator) -> tuple[TokenSets, np.ndarray]:
    """Two partial builds a build: random families at random levels; one weapon favours sub_power_up."""
    n = 2 * n_builds
    build = np.repeat(np.arange(n_builds), 2)
    weapon = np.repeat(rng.integers(0, len(WEAPONS), n_builds), 2).astype(np.int32)
    sets = TokenSets(weapon, np.zeros((n, len(vocabulary)), dtype=np.bool_))
    for family in vocabulary.stackable:
        held = rng.random(n_builds) < 0.22
        if family == "sub_power_up":
            held = rng.random(n_builds) < np.where(weapon[::2] == WEAPONS.index(11), 0.9, 0.05)
        level = np.where(held, rng.choice(STANDARD_RUNGS[:7], n_builds), 0)
        for rung in STANDARD_RUNGS:
            rows = (level[build] >= rung) & (rng.random(n) < 0.8)
            sets.present[rows, vocabulary.encode(family, rung, "single")[0]] = True
    for slot in (("comeback", "tenacity"), ("ninja_squid", "haunt"), ("stealth_jump", "drop_roller")):
        choice = rng.integers(0, 6, n_builds)[build]
        for index, family in enumerate(slot):
            sets.present[choice == index, vocabulary.encode(family, 10)[0]] = True
    return sets, build


def encoder_of(pooled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encoder that reads each rule as it is, then the random directions; and its bias."""
    d = pooled.shape[1]
    rng = np.random.default_rng(17)
    directions = rng.multivariate_normal(np.zeros(d), np.cov(pooled, rowvar=False), len(RANDOM)).astype(np.float32)
    heights = pooled @ directions.T
    directions *= (3.0 / (heights.max(axis=0) - np.quantile(heights, 0.94, axis=0)))[:, None]
    bias = np.r_[np.zeros(len(RULES)), -np.quantile(pooled @ directions.T, 0.94, axis=0)]
    return np.vstack([np.eye(d, dtype=np.float32)[: len(RULES)], directions]), bias.astype(np.float32)


def build_world(folder: Path, *, n_builds: int = 1500, weapons: tuple[int, ...] = WEAPONS) -> tuple[Context, RuleWorld]:
    rng = np.random.default_rng(11)
    mapping = vocabulary_mapping()
    vocabulary = Vocabulary.from_mapping(mapping)
    world = RuleWorld(vocabulary, rng.normal(size=(len(vocabulary.families), NOISE)) / 30.0)
    sets, build = random_builds(vocabulary, n_builds, rng)
    counts = sets.present.sum(axis=1)
    tokens = np.nonzero(sets.present)[1]
    pooled = world.vectors(sets)
    encoder, bias = encoder_of(pooled)
    contents = BundleContents(
        model_params=None,
        model_state=None,
        sae_state={
            "encoder.weight": encoder,
            "encoder.bias": bias,
            "decoder.weight": encoder.T.copy(),
            "decoder_bias": np.zeros(encoder.shape[1], np.float32),
        },
        vocabulary=mapping,
        weapon_vocabulary={f"weapon_id_{weapon}": index for index, weapon in enumerate(weapons)},
        weapon=sets.weapon,
        indptr=np.r_[0, np.cumsum(counts)].astype(np.int64),
        tokens=tokens.astype(np.int16),
        levels=levels_of(sets.present, vocabulary),
        build_id=build.astype(np.int32),
        pooled=pooled,
    )
    write_bundle(folder, contents)
    return Context("world", Bundle.open(folder), oracle=world), world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return build_world(tmp_path_factory.mktemp("worlds") / "world")[0]


@pytest.fixture(scope="session")
def make_world() -> Callable[..., tuple[Context, RuleWorld]]:
    return build_world


@pytest.fixture
def fresh_world(tmp_path: Path) -> tuple[Context, RuleWorld]:
    return build_world(tmp_path / "world", n_builds=300)


@dataclass
class Answer:
    """A finished run: what the runner returned, and its job."""

    findings: Findings
    job: Job

    @property
    def custom(self) -> dict[str, Any]:
        return self.findings.aggregates.custom

    @property
    def headline(self) -> str:
        return self.findings.headline

    def rows(self, table: str) -> list[dict[str, Any]]:
        return next(each.rows for each in self.findings.tables if each.name == table)

    def row(self, table: str, **where: Any) -> dict[str, Any]:
        return next(row for row in self.rows(table) if all(row[key] == value for key, value in where.items()))


Ask = Callable[..., Answer]


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Run an experiment: ask(context, type, feature or rule name, slice={...}, constraints=[...], **variables)."""

    def run(ctx: Context, type_name: str, feature: int | str, **given: Any) -> Answer:
        fields: dict[str, Any] = {
            "id": "asked",
            "type": type_name,
            "feature_id": FEATURE[feature] if isinstance(feature, str) else feature,
            "dataset_slice": given.pop("slice", {}),
        }
        if "constraints" in given:
            fields["constraints"] = given.pop("constraints")
        spec = parse_spec(fields | {"variables": given})
        job = Job()
        return Answer(find(type_name).run(spec, ctx, job), job)

    return run


@pytest.fixture(scope="session")
def feature() -> dict[str, int]:
    return FEATURE
