"""Building bundles: the demo bundle from generated builds, and a bundle of one's own from a table of builds."""

import glob
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...schemas.errors import BundleError, RequestError
from ...schemas.facts import MAIN_ONLY, STACKABLE, STANDARD_RUNGS
from ...schemas.manifest import Manifest
from ...schemas.planted import PlantedRule
from ...schemas.vocabulary import MASK, NULL, PAD, Vocabulary, WeaponVocabulary
from ..bundle import BundleContents, write_bundle
from ..token_sets import TokenSets
from .assemble import Extras, ModelSize, World, assemble, shortfalls
from .batches import BatchSource
from .codec import Codec
from .demo_rules import demo_rules
from .examples import HELD_OUT_EVERY, build_chances, choose, held_out, make_examples
from .generate import Builds, generate_builds, load_archetypes
from .sparse import SparseOptions
from .table import TableReport, read_table
from .train import Progress, Trainer, TrainOptions, reproducible


def silent(stage: str, done: int, total: int, note: str) -> None:
    """A progress callback that says nothing."""
    del stage, done, total, note


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How to make the demo bundle.

    Attributes:
        seed: Seed of everything: builds, vocabulary order, partial sets, weights, batches.
        threads: Torch threads; the numbers depend on them in the last digits.
        pool: Generated builds to choose from.
        train_builds: Builds chosen, rare kinds raised; the first ``example_builds`` also give the stored examples.
        example_builds: Builds whose partial sets are stored.
        per_build: Partial sets a stored build.
        size: Sizes of the network.
        train: Schedule of the network.
        sparse: Size and schedule of the autoencoder.
        extras: Random directions, dead features, contexts of the fidelity measurement.
        require_fidelity: Refuse to write a bundle whose planted rules are not followed well enough.
    """

    seed: int = 0
    threads: int = 2
    pool: int = 60_000
    train_builds: int = 25_000
    example_builds: int = 4_600
    per_build: int = 5
    size: ModelSize = field(default_factory=ModelSize)
    train: TrainOptions = field(default_factory=lambda: TrainOptions(steps=5000))
    sparse: SparseOptions = field(default_factory=SparseOptions)
    extras: Extras = field(default_factory=lambda: Extras(random_directions=3, dead=2))
    require_fidelity: bool = True

    @classmethod
    def toy(cls, seed: int = 0) -> "DemoOptions":
        """A build of a few seconds that exercises every part and teaches nothing well."""
        return cls(
            seed=seed,
            threads=1,
            pool=2000,
            train_builds=600,
            example_builds=200,
            per_build=3,
            size=ModelSize(16, 16, 1, 2, 2),
            train=TrainOptions(steps=20, batch_size=64, warmup=5, checkpoint_every=10),
            sparse=SparseOptions(features=32, steps=40, batch_size=128),
            extras=Extras(random_directions=3, dead=2, contexts=20),
            require_fidelity=False,
        )


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How to make a bundle from a table of builds.

    Attributes:
        seed: Seed of everything.
        threads: Torch threads; None leaves them as they are.
        max_examples: Partial sets to store at most.
        per_build: Partial sets a build at most.
        size: Sizes of the network.
        train: Schedule of the network.
        sparse: Size and schedule of the autoencoder.
        ignore_columns: Columns of the table that are no abilities.
    """

    seed: int = 0
    threads: int | None = None
    max_examples: int = 100_000
    per_build: int = 5
    size: ModelSize = field(default_factory=ModelSize)
    train: TrainOptions = field(default_factory=lambda: TrainOptions(steps=1500))
    sparse: SparseOptions = field(default_factory=SparseOptions)
    ignore_columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made.

    Attributes:
        manifest: The manifest of the written bundle.
        seconds: Wall time.
        table: What was read and skipped, for a bundle built from a table.
    """

    manifest: Manifest
    seconds: float
    table: TableReport | None = None


def build_demo(out: Path, options: DemoOptions | None = None, progress: Progress = silent) -> BuildReport:
    """Train the demo bundle and write it.

    Args:
        out: The bundle's folder, absent or empty.
        options: How; the shipped bundle's settings by default.
        progress: Called with (stage, done, total, note); an exception raised from it stops the build, and the next
            build with the same options takes up from the last checkpoint.

    Returns:
        The manifest and the time taken.

    Raises:
        RequestError: The folder is not empty.
        BundleError: The network follows some planted rule badly; nothing is written.
    """
    chosen = options or DemoOptions()
    rng = np.random.default_rng(chosen.seed)
    rules = demo_rules()
    codec = Codec.of(_vocabulary(rng))
    weapons = _weapon_vocabulary(load_archetypes().weapon_id.tolist(), rng)
    pool = as_sets(generate_builds(chosen.pool, rng), codec, weapons)
    chance = build_chances(pool, rules, codec, weapons, rng)
    builds = pool.take(choose(chance, chosen.train_builds, rng))
    made_by = {"command": "mechinterp-runner build --demo", "builds": "generated from archetypes"}
    plan = _Plan(chosen, builds, np.ones(len(builds)), chosen.example_builds, codec, weapons, rules)
    return _build(out, plan, made_by, rng=rng, progress=progress)


def build_from_table(
    table: Path, out: Path, options: TableOptions | None = None, progress: Progress = silent
) -> BuildReport:
    """Train a bundle on a table of builds and write it.

    Args:
        table: A parquet or CSV file: weapon_id, one AP column per ability, optionally a count.
        out: The bundle's folder, absent or empty.
        options: How; the small size by default.
        progress: As for `build_demo`.

    Returns:
        The manifest, the time taken, and what was skipped of the table and why.

    Raises:
        RequestError: The table cannot be read or holds no usable row, or the folder is not empty.
    """
    chosen = options or TableOptions()
    check_target(out)
    progress("read", 0, 1, table.name)
    read = read_table(table, chosen.ignore_columns)
    progress("read", 1, 1, read.report.summary())
    rng = np.random.default_rng(chosen.seed)
    codec = Codec.of(_vocabulary(rng))
    weapons = _weapon_vocabulary(np.unique(read.builds.weapon_id).tolist(), rng)
    order = rng.permutation(len(read.builds))
    builds = as_sets(read.builds.take(order), codec, weapons)
    weight = 1.0 + np.log(read.count[order])
    stored = max(1, min(len(builds), (chosen.max_examples - len(weapons)) // chosen.per_build))
    made_by = {
        "command": "mechinterp-runner build --builds",
        "builds": table.name,
        "builds_sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
        "table": read.report.as_dict(),
    }
    plan = _Plan(chosen, builds, weight, stored, codec, weapons, ())
    return _build(out, plan, made_by, rng=rng, progress=progress, table=read.report)


def check_target(out: Path) -> None:
    """Refuse a folder that a bundle could not be written to, before any work is done.

    Raises:
        RequestError: It exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} already exists and is not empty: choose another folder, or remove it first")


def as_sets(builds: Builds, codec: Codec, weapons: WeaponVocabulary) -> TokenSets:
    """Complete builds as token sets."""
    ids = np.asarray(weapons.weapon_ids)
    order = np.argsort(ids)
    tokens = order[np.searchsorted(ids, builds.weapon_id, sorter=order)]
    return TokenSets(tokens.astype(np.int32), codec.tokenize(builds.ap))


def _vocabulary(rng: np.random.Generator) -> Vocabulary:
    """The full set of tokens in an order that nothing may rely on."""
    rungs = [f"{family}_{rung}" for family in STACKABLE for rung in STANDARD_RUNGS]
    tokens = np.array([*rungs, *MAIN_ONLY, NULL, PAD, MASK])
    return Vocabulary(tuple(str(token) for token in rng.permutation(tokens)))


def _weapon_vocabulary(weapon_ids: Sequence[int], rng: np.random.Generator) -> WeaponVocabulary:
    """The kits in an order that nothing may rely on."""
    shuffled = rng.permutation(np.asarray(weapon_ids, dtype=np.int64))
    return WeaponVocabulary(tuple(f"weapon_id_{weapon_id}" for weapon_id in shuffled))


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything a build needs once its builds are chosen; the first ``stored`` builds give the examples."""

    options: DemoOptions | TableOptions
    builds: TokenSets
    weight: np.ndarray[Any, np.dtype[np.float64]]
    stored: int
    codec: Codec
    weapons: WeaponVocabulary
    rules: Sequence[PlantedRule]


def _build(
    out: Path,
    plan: _Plan,
    made_by: dict[str, Any],
    *,
    rng: np.random.Generator,
    progress: Progress,
    table: TableReport | None = None,
) -> BuildReport:
    """Train, assemble, write."""
    started = time.perf_counter()
    check_target(out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    options = plan.options
    examples = make_examples(plan.builds.take(slice(0, plan.stored)), options.per_build, len(plan.weapons), rng)
    kept_out = held_out(np.arange(len(plan.builds))) & (np.arange(len(plan.builds)) < plan.stored)
    held = held_out(examples.build_id) & (examples.build_id < plan.stored)
    train_rows = np.flatnonzero(~kept_out)
    chance = plan.weight[train_rows] / plan.weight[train_rows].sum()
    source = BatchSource(plan.builds.take(train_rows), chance, plan.codec, plan.weapons, plan.rules)
    settings = {name: value for name, value in asdict(options).items() if name != "require_fidelity"}
    made_by = made_by | {"options": settings, "held_out": _held_out_note(plan.stored)}
    checkpoint = out.absolute().parent / f".{out.absolute().name}.{_digest(made_by)}.checkpoint"
    with reproducible(options.seed, options.threads):
        trainer = Trainer(options.size.params(plan.codec, plan.weapons), source, options.train, options.seed)
        trained = trainer.run(progress, checkpoint)
        world = World(plan.codec, plan.weapons, examples, held, plan.rules, options.seed)
        extras = options.extras if isinstance(options, DemoOptions) else Extras()
        contents = assemble(world, trained, options.sparse, extras, progress)
    contents.made_by = made_by | contents.made_by
    manifest = _publish(out, contents, options, progress)
    for stale in checkpoint.parent.glob(f".{glob.escape(out.absolute().name)}.*.checkpoint*"):
        stale.unlink()
    return BuildReport(manifest, time.perf_counter() - started, table)


def _publish(out: Path, contents: BundleContents, options: DemoOptions | TableOptions, progress: Progress) -> Manifest:
    """Check the planted rules and write the folder."""
    short = shortfalls(contents.planted)
    if short and isinstance(options, DemoOptions) and options.require_fidelity:
        raise BundleError(f"the network does not follow {len(short)} planted rules: {'; '.join(short)}. Train longer.")
    progress("write", 0, 1, str(out))
    manifest = write_bundle(out, contents)
    progress("write", 1, 1, str(out))
    return manifest


def _held_out_note(stored: int) -> str:
    """Which builds were never trained on, in words."""
    return f"builds whose build_id is {HELD_OUT_EVERY - 1} modulo {HELD_OUT_EVERY} (below {stored}) were not trained on"


def _digest(made_by: dict[str, Any]) -> str:
    """A short name of what would be built, so that a checkpoint of something else is never taken up."""
    return hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode()).hexdigest()[:12]
