"""Interventions on a network of the published size, beside the same network asked plainly in the same run.

The reference is `SplatGPT.pooled`, the network as it is defined, in a loop over batches of sets that were deduplicated
and sorted by length before, at the batch size that suits it best. The context deduplicates, sorts, caches and reads a
feature in the time that is measured; its cache is cleared first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from ..context.context import Context
from ..context.contexts import load_context
from ..context.device import full_precision
from ..context.model import SplatGPT
from ..context.oracle import NetworkOracle
from ..context.token_sets import TokenSets
from .frame import Bar, Row, in_turn
from .ultra import conditions, write_ultra

CONTEXTS = {"cpu": 50, "cuda": 2_000}
QUICK_CONTEXTS, FEW_CONTEXTS, TRIED_SETS = 4, 2, 64
BATCH_SIZES = {"cpu": (8, 16, 32, 64), "cuda": (256, 512, 1024, 2048)}
FEATURES = 16
REPEATS, READ_REPEATS = 2, 7
THROUGHPUT, SECOND, TOGETHER = Bar("ratio", 1 / 0.95), Bar("ratio", 1 / 50), Bar("ratio", 1 / 8)


def measure(*, quick: bool = False) -> list[Row]:
    """Measure interventions on the CPU, and on a CUDA device where there is one."""
    demo = load_context("demo", device="cpu")
    with TemporaryDirectory(prefix="bench-") as folder:
        model = write_ultra(Path(folder, "ultra"), demo, small=quick)
        rows = _of_device(Path(folder, "ultra"), model, demo, "cpu", quick=quick)
        if torch.cuda.is_available():
            rows += _of_device(Path(folder, "ultra"), model, demo, "cuda", quick=quick)
    return rows


@dataclass(frozen=True)
class Plain:
    """The network asked plainly.

    Attributes:
        model: as it is defined, on its device.
        batches: distinct sets of one length each, all of them: tokens [n, L] and weapons [n].
    """

    model: SplatGPT
    batches: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: SplatGPT, sets: TokenSets, null_id: int, device: str) -> Plain:
        """Deduplicate and sort by length."""
        distinct = sets.take(np.unique(sets.keys(), return_index=True)[1])
        lengths = distinct.present.sum(axis=1)
        batches = list[tuple[Tensor, Tensor]]()
        for length in np.unique(lengths).tolist():
            group = distinct.take(lengths == length)
            tokens = np.nonzero(group.present)[1] if length else np.full(len(group), null_id)
            shown = tokens.reshape(len(group), -1), group.weapon.astype(np.int64)
            batches.append((torch.from_numpy(shown[0]).to(device), torch.from_numpy(shown[1]).to(device)))
        return cls(model, batches)

    def __len__(self) -> int:
        return sum(len(weapons) for _, weapons in self.batches)

    def run(self, size: int, most: int | None = None) -> None:
        """Ask the network about the sets (or about ``most`` of the longest), so many at once."""
        asked = self.batches if most is None else [(self.batches[-1][0][:most], self.batches[-1][1][:most])]
        with torch.inference_mode(), full_precision():
            for tokens, weapons in asked:
                for start in range(0, len(weapons), size):
                    self.model.pooled(tokens[start : start + size], weapons[start : start + size]).cpu()

    def best_size(self, device: str) -> int:
        """The batch size that suits it best."""
        sizes = BATCH_SIZES[device]
        seconds = in_turn({str(size): _bound(self.run, size, max(TRIED_SETS, size)) for size in sizes}, 1)
        asked = {size: min(len(self.batches[-1][1]), max(TRIED_SETS, size)) for size in sizes}
        return min(sizes, key=lambda size: seconds[str(size)] / asked[size])


def _bound(work: Callable[..., None], *given: object) -> Callable[[], None]:
    return lambda: work(*given)


def _of_device(folder: Path, model: SplatGPT, demo: Context, device: str, *, quick: bool) -> list[Row]:
    ctx = load_context(bundle=folder, device=device)
    n = QUICK_CONTEXTS if quick else CONTEXTS[device]
    sets = conditions(demo, n)
    plain = Plain.of(model.to(device), sets, demo.vocabulary.null_id, device)
    cleared = Cleared(ctx)
    cleared.evaluate(sets.take(slice(0, 8)), [0])
    size = plain.best_size(device)
    repeats = 1 if quick else REPEATS
    calls = {"ours": lambda: cleared.evaluate(sets, [0]), "plain": lambda: plain.run(size)}
    seconds = in_turn(calls, repeats)
    cleared.evaluate(sets, [0])
    second = in_turn({"second": lambda: ctx.evaluate(sets, 1)}, 1 if quick else READ_REPEATS)["second"]
    what = f"{n:,} x {len(sets) // n} sets on {device} ({len(plain):,} distinct)"
    return [
        Row(
            f"evaluate(): {what}",
            seconds["ours"],
            f"the network, {size} at once",
            seconds["plain"],
            repeats,
            THROUGHPUT,
        ),
        Row(f"evaluate() of a second feature: {what}", second, "the first", seconds["ours"], repeats, SECOND),
        _together(cleared, conditions(demo, n if device == "cuda" else FEW_CONTEXTS), device, repeats),
    ]


def _together(cleared: Cleared, sets: TokenSets, device: str, repeats: int) -> Row:
    """Sixteen features in one call."""

    def one_by_one() -> None:
        for feature in range(FEATURES):
            cleared.evaluate(sets, [feature])

    calls = {"together": lambda: cleared.evaluate(sets, list(range(FEATURES))), "apart": one_by_one}
    seconds = in_turn(calls, repeats)
    what = f"{FEATURES} features of {len(sets):,} sets on {device} in one call"
    return Row(what, seconds["together"], "as many calls, the cache cleared", seconds["apart"], repeats, TOGETHER)


@dataclass(frozen=True)
class Cleared:
    """A context that remembers no pooled vectors from one call to the next."""

    ctx: Context

    def evaluate(self, sets: TokenSets, features: list[int]) -> None:
        """Clear the cache and evaluate."""
        if not isinstance(self.ctx.oracle, NetworkOracle):
            raise TypeError("a network is measured")
        self.ctx.oracle.cache.clear()
        self.ctx.evaluate_many(sets, features)
