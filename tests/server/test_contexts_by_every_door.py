"""Contexts given in the spec by every door: command line, protocol, Python, batch; on a bundle without examples."""

from __future__ import annotations

import json

import anyio
import pytest
from mcp.client import Client
from mechinterp_runner.context.home import Home
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.result import Aggregates, ExperimentResult, Followup
from mechinterp_runner.schemas.spec import parse_spec
from mechinterp_runner.server.answers import answer
from mechinterp_runner.server.api import run
from mechinterp_runner.server.app import App
from mechinterp_runner.server.batch.batch import run_batch
from mechinterp_runner.server.command_line.cli import main
from mechinterp_runner.server.mcp_server import make_server
from mechinterp_runner.server.render import command_of

FAMILY = "swim_speed_up"
CONTEXTS = [
    {"weapon": weapon, "tokens": [f"{other}_{rung}", *mains]}
    for weapon in (40, 50, "weapon_id_1111")
    for other, rung in (("special_charge_up", 3), ("special_charge_up", 12), ("quick_respawn", 6))
    for mains in ([], ["comeback"])
]
SPEC = {
    "type": "family_1d_sweep",
    "feature_id": 7,
    "model_type": "bare",
    "dataset_slice": {"contexts": CONTEXTS},
    "variables": {"family": FAMILY},
}
PASSES = len(CONTEXTS) * (1 + 5)
"""Each context without the family and with each of its five rungs, none of them twice."""
GIVEN = f"{len(CONTEXTS)} contexts given in the spec"


@pytest.fixture
def place(write_variant, without_examples, tmp_path):
    """A home folder whose bundle ``bare`` holds no examples."""
    write_variant("home/bundles/bare", **without_examples)
    return Home.find(tmp_path / "home")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my contexts.json"
    path.write_text(json.dumps(CONTEXTS))
    return path


@pytest.fixture
def command(place, capsys):
    """Run the command line in the home folder; returns (status, stdout, stderr)."""

    def command(*words):
        try:
            status = main([*map(str, words), "--home", str(place.root)])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return command


def over_the_protocol(place, *calls):
    """Answers of tool calls, in order, and the tools by name."""

    async def use():
        async with Client(make_server(App.at(place))) as client:
            answers = [await client.call_tool(name, arguments) for name, arguments in calls]
            return answers, {tool.name: tool for tool in (await client.list_tools()).tools}

    return anyio.run(use)


def test_python_runs_them_and_stores_the_answer_by_the_contexts(place):
    first, again = (run(SPEC, home=place.root) for _ in range(2))
    assert first.success, first.error_message
    assert GIVEN in first.headline
    assert again.cached_from == first.spec_id
    other = run(SPEC | {"dataset_slice": {"contexts": CONTEXTS[:-1]}}, home=place.root)
    assert other.cached_from is None
    assert "17 contexts given in the spec" in other.headline


def test_the_command_line_reads_them_from_a_file(command, file):
    words = ["family-sweep", "--feature-id", 7, "--family", FAMILY, "--model", "bare", "--contexts", file]
    status, out, _ = command(*words, "--dry-run")
    assert status == 0
    assert "- slice: contexts 18 given\n" in out
    status, out, _ = command(*words, "--format", "json")
    assert status == 0
    result = ExperimentResult.model_validate_json(out)
    assert GIVEN in result.headline
    assert result.diagnostics.n_contexts_tested == 18


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("[{", "is not JSON"),
        ('{"weapon": 40}', "must hold a JSON list; it holds dict"),
    ],
)
def test_a_file_of_contexts_that_cannot_be_used_is_named(command, tmp_path, text, message):
    path = tmp_path / "contexts.json"
    if text is not None:
        path.write_text(text)
    status, _, err = command("family-sweep", "--feature-id", 7, "--family", FAMILY, "--contexts", path)
    assert status == 2
    assert f"{path} {message}" in err
    assert "Nothing was run" in err


def test_a_command_that_has_no_use_for_contexts_says_which_types_have(command, file):
    status, _, err = command("weapon-sweep", "--feature-id", 7, "--model", "bare", "--contexts", file)
    assert status != 0
    assert "weapon_sweep works on the bundle's examples" in err
    assert "family_1d_sweep" in err
    _, out, _ = command("weapon-sweep", "--help")
    assert "--contexts" not in out
    _, out, _ = command("family-sweep", "--help")
    assert "--contexts FILE" in out


def test_a_command_without_them_on_a_bundle_without_examples_is_told_how_to_give_them(command):
    status, _, err = command("family-sweep", "--feature-id", 7, "--family", FAMILY, "--model", "bare")
    assert status != 0
    assert "(on the command line --contexts FILE)" in err


def test_a_followup_is_shown_as_a_command_with_the_flag_for_their_file():
    assert command_of(SPEC).endswith("--model bare --contexts FILE")


def test_a_tool_takes_them_and_one_that_does_not_says_what_to_do(place):
    arguments = {"feature_id": 7, "model_type": "bare", "dataset_slice": {"contexts": CONTEXTS}}
    (done, refused, text), tools = over_the_protocol(
        place,
        ("family_1d_sweep", arguments | {"family": FAMILY}),
        ("weapon_sweep", arguments),
        ("family_1d_sweep", arguments | {"family": FAMILY, "dataset_slice": json.dumps({"contexts": CONTEXTS})}),
    )
    assert not done.is_error, done.content
    assert GIVEN in done.structured_content["headline"]
    assert text.structured_content["cached"]
    assert refused.is_error
    assert "ask a type that intervenes on contexts: conditional_interactions" in refused.content[0].text
    fields = [tools[name].input_schema["properties"]["dataset_slice"] for name in ("family_1d_sweep", "weapon_sweep")]
    assert fields[0]["properties"]["contexts"] == {"type": "array", "items": {"type": "object"}}
    assert "contexts {weapon, tokens}" in fields[0]["description"]
    assert "contexts" not in fields[1]["properties"]


def test_a_dry_run_of_a_spec_counts_their_passes_and_the_type_describes_them(place):
    (planned, described, other), _ = over_the_protocol(
        place,
        ("validate_spec", {"spec": SPEC}),
        ("list_experiment_types", {"type": "family_1d_sweep"}),
        ("list_experiment_types", {"type": "weapon_sweep"}),
    )
    assert not planned.is_error, planned.content
    shown = planned.structured_content
    assert (shown["contexts"], shown["forward_passes"]) == (18, PASSES)
    assert any(GIVEN in note for note in shown["notes"])
    field = described.structured_content["types"][0]["dataset_slice"]["contexts"]
    assert field["items"]["required"] == ["weapon"]
    assert set(field["items"]["properties"]) == {"weapon", "tokens"}
    assert "contexts" not in other.structured_content["types"][0]["dataset_slice"]


def test_an_answer_has_words_in_place_of_many_contexts_that_do_not_run_as_a_spec(place):
    detailed = {"response_format": "detailed"}
    few = SPEC | {"dataset_slice": {"contexts": CONTEXTS[:6]}}
    (planned, whole, short), _ = over_the_protocol(
        place,
        ("validate_spec", {"spec": SPEC}),
        ("run_spec", {"spec": few, "options": detailed}),
        ("run_spec", {"spec": SPEC, "options": detailed}),
    )
    words = "the 18 contexts that were given"
    assert planned.structured_content["spec"]["dataset_slice"]["contexts"] == words
    asked = [each.structured_content["provenance"]["spec_resolved"]["dataset_slice"] for each in (whole, short)]
    assert [context["weapon"] for context in asked[0]["contexts"]] == [context["weapon"] for context in CONTEXTS[:6]]
    assert asked[1]["contexts"] == words
    with pytest.raises(RequestError, match="contexts: Input should be a list; got 'the 18 contexts"):
        parse_spec(SPEC | {"dataset_slice": {"contexts": words}})


@pytest.mark.parametrize(("number", "hint"), [(10, "as it is"), (11, "once the contexts of this run are put back")])
def test_a_followup_shown_says_whether_its_contexts_are_to_be_put_back(number, hint):
    asked = SPEC | {"dataset_slice": {"contexts": CONTEXTS[:number]}}
    result = ExperimentResult(
        spec_id="mine",
        experiment_type="family_1d_sweep",
        feature_id=7,
        success=True,
        duration_seconds=0.0,
        aggregates=Aggregates(),
        followups=[Followup(reason="look closer", spec=asked)],
    )
    shown = answer(result)
    assert hint in shown.hints[-1]
    assert (shown.followups[0].spec == asked) == (number == 10)
    assert result.followups[0].spec == asked


def test_describe_context_says_what_a_bundle_without_examples_can_do(place):
    (described,), _ = over_the_protocol(place, ("describe_context", {"model_type": "bare"}))
    assert "dataset_slice.contexts" in described.structured_content["context"]["missing"]["examples/weapon.npy"]


def test_a_batch_runs_specs_with_contexts_of_their_own(place):
    half = SPEC | {"dataset_slice": {"contexts": CONTEXTS[:9]}}
    others = [{**spec, "feature_id": feature} for feature in (1, 2) for spec in (SPEC, half)]
    done = run_batch(others, home=place.root)
    assert done.success, done.failures
    for row, n in zip(done.rows, (18, 9, 18, 9), strict=True):
        assert f"{n} contexts given in the spec" in row.headline
    passes = [row.forward_passes for row in done.rows]
    assert passes[2] == passes[3] == 0
