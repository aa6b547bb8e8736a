"""Fill the generated parts of the documentation from the experiments' own models: ``make docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mechinterp_runner.schemas.catalogue import Experiment, catalogue
from mechinterp_runner.schemas.experiment_type import ExperimentType
from mechinterp_runner.server.tools.schema import schema_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "experiments"
COSTS = {
    "data": "array passes over the examples",
    "model": "forward passes of the network",
    "data or model": "array passes over the examples, or forward passes of the network, by `method`",
}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _kind(schema: dict[str, Any]) -> str:
    """What a variable takes, in words."""
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "array":
        return "list of " + (_kind(schema["items"]) if "items" in schema else "values")
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(kind) for kind in schema["anyOf"]))
    words = {"string": "text", "boolean": "true or false"}.get(schema.get("type", ""), schema.get("type", "value"))
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", ">="),
            ("exclusiveMinimum", ">"),
            ("maximum", "<="),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([words, *bounds])


def _default(name: str, schema: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "required"
    value = schema.get("default")
    if value in (None, [], ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def variables(experiment: Experiment) -> str:
    """The variables of a type, and how it is called."""
    schema = schema_of(experiment.variables)
    required = schema.get("required", [])
    methods, cost = ", ".join(experiment.methods), COSTS[experiment.cost]
    lines = [
        f"Command `mechinterp-runner {experiment.cli}`; methods: {methods}; cost: {cost}.",
        "",
        "| variable | takes | default | what it is |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in schema.get("properties", {}).items():
        cells = (f"`{name}`", _kind(field), _default(name, field, required), field.get("description", ""))
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    for alias, name in experiment.aliases.items():
        lines += ["", f"On the command line `--{alias.replace('_', '-')}` is short for `--{name.replace('_', '-')}`."]
    return "\n".join(lines)


def tables(experiment: Experiment) -> str:
    """The columns of a type's tables, own columns first."""
    parts: list[str] = []
    for name, row in experiment.tables.items():
        own = [field for field in row.__annotations__ if field in row.model_fields]
        fields = own + [field for field in row.model_fields if field not in own]
        intro = (row.__doc__ or "").strip().splitlines()[0]
        lines = [f"### `{name}`", "", intro, "", "| column | meaning |", "| --- | --- |"]
        lines += [f"| `{field}` | {_cell(row.model_fields[field].description or '')} |" for field in fields]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def overview() -> str:
    """The table of types for the README."""
    lines = ["| type | command | what it answers |", "| --- | --- | --- |"]
    types = catalogue()
    for name in [str(member) for member in ExperimentType if str(member) in types]:
        item = types[name]
        lines.append(f"| [`{name}`](docs/experiments/{name}.md) | `{item.cli}` | {_cell(item.summary)} |")
    return "\n".join(lines)


def filled(text: str, blocks: dict[str, str]) -> str:
    """The text with each ``<!-- generated: NAME -->`` ... ``<!-- end -->`` block filled anew.

    Raises:
        ValueError: a block is missing from the text.
    """
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"no block <!-- generated: {name} --> ... <!-- end -->")
        text = pattern.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
    return text


def wanted() -> dict[Path, dict[str, str]]:
    """The generated blocks of every page."""
    pages = {
        PAGES / f"{name}.md": {"variables": variables(item), "tables": tables(item)}
        for name, item in catalogue().items()
    }
    return {**pages, ROOT / "README.md": {"types": overview()}}


def main() -> int:
    """Fill every page; returns 1 when a page is missing."""
    missing = [path for path in wanted() if not path.is_file()]
    for path, blocks in wanted().items():
        if path not in missing:
            path.write_text(filled(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    for path in missing:
        print(f"missing: {path.relative_to(ROOT)}: write its sections first", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
