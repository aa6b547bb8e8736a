"""What the prompts say. A test reads every call they name and looks for its tool and its arguments."""

from __future__ import annotations

from textwrap import indent

from ...schemas.catalogue import Experiment, catalogue

VERDICTS = """\
- `present`: beyond the smallest effect of interest (`min_effect`) in the mean over all contexts.
- `conditional`: not so in the mean, but acts in at least 1 % of the contexts: look for what else it takes.
- `negligible`: too small to matter, and shown to be.
- `unclear`: not settled. It is no evidence of absence; `n_to_settle` says how many contexts would tell.
- `dead`: no example activates the feature."""

_FOLLOWUPS = """\
Every result carries `followups`, each with a `reason` and a complete `spec`. To run one, pass its `spec` unchanged:
`run_spec(spec=...)`."""

_SPEC = """\
{{"type": "...", "feature_id": {feature}, "model_type": "{model}", "variables": {{...}},
 "parent_hypothesis": "...", "rationale": "..."}}"""


def plan(question: str, feature_id: int | None, budget: int | None, model_type: str, n_features: int) -> str:
    """The text of plan_experiments."""
    feature = "N" if feature_id is None else str(feature_id)
    about = f"It is about feature {feature}." if feature_id is not None else _WITHOUT_FEATURE
    spec = _SPEC.format(feature=feature, model=model_type)
    return _PLAN.format(
        question=question.strip().replace("\n", "\n> "),
        about=about,
        model=model_type,
        last=n_features - 1,
        budget=_budget(budget),
        search='text="..."' if feature_id is None else f"feature_id={feature_id}",
        types="\n".join(_type_line(experiment) for experiment in catalogue().values()),
        spec=spec,
        followups=_FOLLOWUPS,
    )


def _budget(budget: int | None) -> str:
    if budget is None:
        return "No budget is given: of two experiments that would tell the same, plan the cheaper."
    if budget == 0:
        return "Budget: no forward passes. Only what costs data fits: by the observational method, where there are two."
    return f"Budget: {budget:,} forward passes in all."


def _type_line(experiment: Experiment) -> str:
    return f"- `{experiment.type}` ({' or '.join(experiment.methods)}; costs {experiment.cost}): {experiment.summary}"


_WITHOUT_FEATURE = "No feature is named: if the question needs one and does not say which, ask for its number."
_PLAN = """\
Plan experiments that answer this question:

> {question}

{about} Bundle `{model}` has features 0 to {last}. {budget}

## Before planning

1. `describe_context(model_type="{model}")`: abilities with their rungs, weapons, whether there is a model.
2. `list_results({search}, model_type="{model}")`: what is known already. The same question is answered from the
   store at no cost.

## What can be run

{types}

`data` reads the examples there are, `model` makes forward passes. `list_experiment_types(type="...")` gives the
variables of a type, and the resource mechinterp://experiment-types/TYPE its page. Observational experiments say what
goes together and serve to choose candidates; only interventional ones say what the network does.

## The plan

Write each experiment as a spec, all with one short `parent_hypothesis`, so that `list_results(parent_hypothesis="...")`
finds them together, and with a `rationale`:

```json
{spec}
```

Pass each to `validate_spec(spec=...)`. It runs nothing and says `forward_passes`, `estimated_seconds`, and `stored`,
the id of the answer if there is one. A smaller `dataset_slice.sample_size` makes most interventions cheaper and their
intervals wider. Then show the plan as a list, cheapest first: the spec, its forward passes, and what each
possible verdict would mean for the question (`unclear` included), with the sum of the forward passes.

Run it with `run_spec(spec=...)`, one after the other, and change what comes later by what was found. Read
`specificity_p` and the warnings of each result before building on it.

{followups}
"""


def investigation(feature_id: int, model_type: str, n_features: int) -> str:
    """The text of investigate_feature."""
    return _INVESTIGATION.format(
        f=f'feature_id={feature_id}, model_type="{model_type}"',
        feature=feature_id,
        model=model_type,
        last=n_features - 1,
        followups=_FOLLOWUPS,
        verdicts=VERDICTS,
    )


_INVESTIGATION = """\
Find out what feature {feature} of bundle `{model}` (features 0 to {last}) responds to.

1. `list_results({f})`: what is known already.
2. `describe_context(model_type="{model}")`: abilities with their rungs, and whether there is a model. Without one only
   observational experiments run, and no claim about causes can be made.
3. `feature_overview({f})`: how often it is active, and what goes with it. If it is dead, say so and
   stop. If nothing is specific, that is an answer too; `pairwise_interactions({f})` looks for what no
   single ability shows.
4. `token_influence_sweep({f})`: enhancers and suppressors; `confirmed` says which the network agrees with.
5. `family_1d_sweep({f}, family="...")` for each confirmed ability: from which AP on, in what shape.
6. If weapons stand out: `weapon_sweep({f}, method="interventional")` asks whether the weapon itself does it. Where they
   share a sub or special, `kit_sweep({f})`.
7. If a row is `conditional`, it is a part of something: `pairwise_interactions({f}, candidate_tokens=[...])` with
   the units found, `family_2d_heatmap({f}, family_x="...", family_y="...")` for the pair, and
   `conditional_interactions({f}, modulator_token="...")` when a third unit seems to switch it.
8. `minimal_cores({f})`: whether what was found is enough by itself.
9. `decoder_output_analysis({f})`: what the feature writes into the prediction, which may be something else.

{followups}
Prefer them to a call of your own: they are made from the numbers. A run that takes long answers with a handle, and
`get_run(run_id="...")` has its result later.

## Verdicts

{verdicts}

## The claim

Say what activates the feature, from which AP on and with what partner; quote `sim_low` to `sim_high`, n and the ids of
the results. Claim a cause only from interventional results with `specificity_p` at most 0.05: above it, random
directions respond as much. Say what was not tested, what stayed `unclear`, and what the warnings mean for the claim.
"""


def summary(run_id: str, experiment_type: str, *, success: bool, note: str) -> str:
    """The text of summarize_result; ``note`` is the result as markdown."""
    return _SUMMARY.format(
        run=run_id,
        type=experiment_type,
        failed="" if success else _FAILED,
        verdicts=indent(VERDICTS, "   "),
        note=note.strip(),
    )


_FAILED = """
**This run did not finish.** There is no answer to summarise: say why, and what its finished tables show.
"""
_SUMMARY = """\
Summarise the result `{run}` below for someone who will decide by it. Use its numbers only.
{failed}
## What a summary must do

1. Begin with the answer: the headline in plain words, with effect, interval, n, population and method.
2. Keep the verdict (`status`) apart from the size of the effect:
{verdicts}
3. Give `specificity_p` where there is one. Above 0.05 random directions respond as much: then nothing specific was
   found, however large the effect. "nothing above X found" is a result with its power, not a failure.
4. Observational results are correlational: "goes with", never "drives" or "causes". Only interventional ones speak of
   what the network does, and about the network, not about players.
5. Say every warning, or what it means for the answer. A result read without its warnings is misread.
6. Null is unknown, not 0. Sparse rows (fewer than 20 examples) are no evidence. On the floor (`relu_floor_detected`)
   a decrease shows in the pre-activation only.
7. End with the followups: which one you would run, and why. Their specs are in
   `get_run(run_id="{run}")`; pass the one chosen unchanged to `run_spec(spec=...)`.

The note rounds, and may show only the first rows of a table.
`get_run(run_id="{run}", table="...")` pages through one. Resources: mechinterp://results/{run} is the whole
result, mechinterp://results/{run}/tables/NAME a table as CSV, mechinterp://experiment-types/{type} says how
to read it, and mechinterp://glossary explains the words.

## The result

{note}
"""
