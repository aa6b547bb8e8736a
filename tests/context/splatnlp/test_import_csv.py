"""Complete builds of a CSV: partial examples of each, made as the network was trained, and broken rows by line."""

import shutil

import numpy as np
import pytest
from mechinterp_runner.context.splatnlp import tokenized_csv
from mechinterp_runner.schemas.errors import RequestError


@pytest.fixture
def builds(artefacts):
    """Distinct (weapon, tokens), of two tokens and more."""
    rows = {(weapon, tuple(sorted(tokens))) for weapon, tokens in artefacts.rows if len(tokens) > 1}
    return [(weapon, list(tokens)) for weapon, tokens in sorted(rows)]


@pytest.fixture
def csv_of(artefacts):
    def csv_of(rows, extra=()):
        path = artefacts.folder / "tokenized data.csv"
        lines = ["weapon_id,ability_tags,when", *(f'{weapon},"{tokens}",2024' for weapon, tokens in rows), *extra]
        path.write_text("\n".join(lines) + "\n")
        return {"tokenized_csv": path}

    return csv_of


def test_examples_are_partial_sets_of_their_build(artefacts, builds, csv_of):
    context, made = artefacts.load(**csv_of(builds), **artefacts.network(), instances_per_build=3)
    examples, n_weapons = context.data, len(context.weapons)
    sets = examples.sets(np.arange(len(examples)))
    seen = [set() for _ in builds]
    for row, build in enumerate(examples.build_id[:-n_weapons]):
        weapon, tokens = builds[build]
        kept = frozenset(np.flatnonzero(sets.present[row]).tolist())
        assert examples.weapon[row] == weapon
        assert kept < set(tokens)
        assert kept
        assert kept not in seen[build]
        seen[build].add(kept)
    assert {len(found) for found in seen} <= {1, 2, 3}
    assert sum(map(len, seen)) > 2 * len(builds)
    assert not sets.present[-n_weapons:].any()
    assert examples.weapon[-n_weapons:].tolist() == list(range(n_weapons))
    assert len(set(examples.build_id)) == len(builds) + n_weapons
    assert made.manifest.made_by["options"]["instances_per_build"] == 3
    assert made.manifest.made_by["table"] == {
        "rows_used": len(builds), "rows_skipped": {}, "first_skipped": [], "distinct_builds": len(builds),
    }  # fmt: skip


def test_the_network_gives_the_activations_of_the_partial_sets(artefacts, builds, csv_of):
    import torch
    from mechinterp_runner.context.model import SplatGPT

    context, _ = artefacts.load(**csv_of(builds[:20]), **artefacts.network())
    model = SplatGPT(artefacts.contents.model_params).double().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in artefacts.model_state().items()})
    bounds, sae = context.data.indptr, artefacts.contents.sae_state
    for row in (0, 7, len(context.data) - 1):
        tokens = torch.from_numpy(context.data.tokens[bounds[row] : bounds[row + 1]].astype(np.int64))[None]
        with torch.inference_mode():
            pooled = model.pooled(tokens, torch.tensor([int(context.data.weapon[row])])).numpy()[0]
        acts = np.clip((pooled - sae["decoder_bias"]) @ sae["encoder.weight"].T + sae["encoder.bias"], 0, 6)
        got = [context.activations(feature)[row] for feature in range(12)]
        assert np.abs(got - acts).max() < 1e-5


def test_how_many_tokens_go_follows_the_training_s_law(artefacts, csv_of, monkeypatch):
    monkeypatch.setattr(tokenized_csv, "BUILDS_PER_UNIT", 700)
    real = [index for token, index in artefacts.contents.vocabulary.items() if not token.startswith("<")]
    rng = np.random.default_rng(0)
    rows = {(int(rng.integers(4)), tuple(sorted(rng.choice(real, 6, replace=False).tolist()))) for _ in range(4000)}
    path = csv_of([(weapon, list(tokens)) for weapon, tokens in rows])
    context, _ = artefacts.load(**path, **artefacts.network(), instances_per_build=1, pooled=False)
    kept = np.diff(context.data.indptr)[:-4]
    got = np.bincount(6 - kept, minlength=6)[1:6] / len(kept)
    law = (np.arange(1, 6) / 15) ** 1.2
    assert np.abs(got - law / law.sum()).max() < 4 * np.sqrt(0.25 / len(kept))


def test_equal_builds_are_one_cluster_and_seeds_decide(artefacts, builds, csv_of):
    files = csv_of([*builds[:30], *builds[:10]]) | artefacts.network()
    context, made = artefacts.load(**files, seed=1)
    assert made.manifest.made_by["table"]["rows_used"] == 40
    assert made.manifest.made_by["table"]["distinct_builds"] == 30
    assert int(context.data.build_id.max()) == 30 + 4 - 1
    first = np.array(context.data.tokens)
    for seed, same in ((1, True), (2, False)):
        shutil.rmtree(artefacts.folder / "home")
        context, _ = artefacts.load(**files, seed=seed)
        assert np.array_equal(context.data.tokens, first) is same


def test_broken_rows_are_counted_named_by_line_and_skipped(artefacts, builds, csv_of):
    vocabulary = artefacts.contents.vocabulary
    one = vocabulary["comeback"]
    broken = [
        f"0,\"{{'a': {one}}}\",2024",
        f'0,"[{one}, 99]",2024',
        f'x,"[{one}]",2024',
        f'9,"[{one}]",2024',
        f'0,"[{one}, {one}]",2024',
        "0,[],2024",
        f'0,"[{vocabulary["<NULL>"]}]",2024',
        "0",
        f'0,"[{one}, {vocabulary["<NULL>"]}]",2024',
        "",
        f'0,"[{one},]",2024',
        '0,"[99999999999999999999]",2024',
    ]
    # The line after the broken ones is good: lines keep being counted past rows that were set aside.
    tail = [f'{builds[3][0]},"{builds[3][1]}",2024', "7,[1],2024"]
    context, made = artefacts.load(**csv_of(builds[:3], [*broken, *tail]), **artefacts.network())
    assert made.notes == ("more rows were skipped than used: are the vocabularies those of this file?",)
    table = made.manifest.made_by["table"]
    assert table["rows_used"] == 4
    assert table["rows_skipped"] == {
        "the ability tokens are not a list of ids": 4,
        "an ability id outside the vocabulary": 1,
        "the weapon id is not a whole number": 1,
        "a weapon id outside the weapon vocabulary": 2,
        "<NULL> beside other tokens": 1,
        "a token twice": 1,
        "no ability at all": 2,
        "the wrong number of cells": 1,
    }
    assert table["first_skipped"] == [
        "line 5: the ability tokens are not a list of ids",
        "line 6: an ability id outside the vocabulary",
        "line 7: the weapon id is not a whole number",
        "line 8: a weapon id outside the weapon vocabulary",
        "line 9: a token twice",
    ]
    assert len(set(context.data.build_id)) == 4 + 4


def test_lines_are_right_after_lines_that_were_set_aside(artefacts, builds, csv_of):
    first = [f'0,"[{index}]",2024,more' for index in range(3)]
    _, made = artefacts.load(**csv_of(builds[:2], [*first, '9,"[1]",2024']), **artefacts.network())
    assert made.manifest.made_by["table"]["first_skipped"] == [
        "line 4: the wrong number of cells",
        "line 5: the wrong number of cells",
        "line 6: the wrong number of cells",
        "line 7: a weapon id outside the weapon vocabulary",
    ]


def test_builds_in_many_blocks_are_all_there(artefacts, builds, csv_of, monkeypatch):
    monkeypatch.setattr(tokenized_csv, "_BYTES_PER_BLOCK", 400)
    monkeypatch.setattr(tokenized_csv, "BUILDS_PER_UNIT", 7)
    context, made = artefacts.load(**csv_of(builds, ["8,[1],1"]), **artefacts.network())
    assert made.manifest.made_by["table"]["distinct_builds"] == len(builds)
    assert made.manifest.made_by["table"]["first_skipped"] == [
        f"line {len(builds) + 2}: a weapon id outside the weapon vocabulary"
    ]
    whole = [set() for _ in builds]
    for row, build in enumerate(context.data.build_id[:-4]):
        whole[build] |= set(context.data.tokens[context.data.indptr[row] : context.data.indptr[row + 1]].tolist())
    assert all(union <= set(tokens) for union, (_, tokens) in zip(whole, builds, strict=True))


def test_a_csv_without_a_usable_build_or_without_its_columns_is_refused(artefacts, csv_of):
    network = artefacts.network()
    with pytest.raises(RequestError, match=r"holds no usable build: line 2: a weapon id outside"):
        artefacts.imported(**csv_of([(9, [1])]), **network)
    with pytest.raises(RequestError, match=r"holds no usable build: no row"):
        artefacts.imported(**csv_of([]), **network)
    path = artefacts.folder / "other.csv"
    path.write_text("weapon,tags\n1,2\n")
    with pytest.raises(RequestError, match="has no column 'ability_tags'; its first line names weapon, tags"):
        artefacts.imported(tokenized_csv=path, **network)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="cannot be read as CSV"):
        artefacts.imported(tokenized_csv=path, **network)


def test_builds_without_a_model_are_refused(artefacts, csv_of):
    with pytest.raises(RequestError, match="nothing else says what features do"):
        artefacts.imported(**csv_of([(0, [1])]))
