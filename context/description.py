"""What a bundle is, in plain values: what describe_context tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .context import Context


def describe(ctx: Context) -> dict[str, Any]:
    """What the bundle is: sizes, vocabulary, rungs, device, cache, planted rules, what it lacks, its origin."""
    manifest, vocabulary = ctx.bundle.manifest, ctx.vocabulary
    return {
        "name": ctx.name,
        "fingerprint": ctx.bundle.fingerprint,
        "n_features": ctx.n_features,
        "n_examples": manifest.n_examples,
        "builds_known": bool(ctx.examples is not None and ctx.examples.build_id is not None),
        "has_model": ctx.has_model,
        "model": manifest.model.model_dump() if manifest.model else None,
        "n_ability_tokens": len(vocabulary),
        "n_weapons": len(ctx.weapons),
        "weapons_outside_the_table": [kit.name for kit in ctx.weapons.facts if not kit.known],
        "stackable_families": {family: list(vocabulary.rungs(family)) for family in vocabulary.stackable},
        "main_only_abilities": {family: vocabulary.slot(family) for family in vocabulary.main_only},
        "device": ctx.device,
        "dtype": ctx.dtype,
        "cached_pooled_vectors": ctx.n_cached,
        "seconds_per_forward_pass": ctx.seconds_per_pass(),
        "differs_from_float32": ctx.differs_from_float32(),
        "planted": [rule.model_dump(mode="json", exclude={"fidelity", "terms"}) for rule in manifest.planted],
        "missing": ctx.bundle.missing(),
        "made_by": manifest.made_by,
    }
