"""Specs as planners already write them load unchanged and run on the demo bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mechinterp_runner import load_context, run
from mechinterp_runner.schemas.spec import parse_spec, parse_spec_json

SPECS = Path(__file__).parents[2] / ".." / "shared" / "fixtures" / "specs"
FILES = sorted(SPECS.glob("*.json"))
pytestmark = pytest.mark.skipif(not FILES, reason=f"the spec files are not at {SPECS}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def here(path: Path, feature: int, sample_size: int | None = None) -> dict:
    """The spec with feature and bundle replaced, and a smaller sample where a test should be quick."""
    data = json.loads(path.read_text(encoding="utf-8")) | {"feature_id": feature, "model_type": "demo"}
    if sample_size is not None:
        data["dataset_slice"] = {**data.get("dataset_slice", {}), "sample_size": sample_size}
    return data


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_it_loads_unchanged(path):
    given = json.loads(path.read_text(encoding="utf-8"))
    spec = parse_spec_json(path.read_bytes(), path.name)
    assert spec.type == given["type"]
    assert spec.feature_id == given["feature_id"]
    assert spec.model_type == given["model_type"]


OBSERVATIONAL = {
    "frequent_itemsets",
    "split_half",
    "shuffle_null",
    "core_coverage_analysis",
    "kit_sweep",
    "weapon_sweep",
}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_it_runs_on_the_demo_bundle_and_answers_with_numbers(path, demo, tmp_path):
    kind = json.loads(path.read_text(encoding="utf-8"))["type"]
    result = run(parse_spec(here(path, 1, None if kind in OBSERVATIONAL else 60)), demo, home=tmp_path)
    assert result.success, result.error_message
    assert result.headline
    assert any(table.rows for table in result.tables.values())


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_dead_feature_is_called_dead(path, demo, tmp_path):
    result = run(parse_spec(here(path, 16)), demo, home=tmp_path)
    assert result.success
    assert result.headline.startswith("nothing found")
    assert "dead" in result.headline


def test_a_percentile_given_as_a_fraction_is_read_as_one_and_announced(demo, tmp_path):
    path = SPECS / "token_influence.json"
    result = run(parse_spec(here(path, 1, 60)), demo, home=tmp_path)
    assert result.aggregates is not None
    assert result.aggregates.custom["high_percentile"] == pytest.approx(99.5)
    assert result.diagnostics is not None
    assert any("fraction" in warning for warning in result.diagnostics.warnings)


def test_a_metric_by_its_old_name_is_the_metric_of_today(demo, tmp_path):
    result = run(parse_spec(here(SPECS / "split_half_metric.json", 1)), demo, home=tmp_path)
    assert result.aggregates is not None
    assert result.aggregates.custom["metric"] == "token_frequency"


def test_41_ap_is_read_as_38_with_a_warning(demo, tmp_path):
    result = run(parse_spec(here(SPECS / "binary.json", 1, 60)), demo, home=tmp_path)
    assert result.diagnostics is not None
    assert any("41" in warning and "38" in warning for warning in result.diagnostics.warnings)
