"""``mechinterp-runner import``: turn the files of another project into a bundle."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...context.home import DEMO, Home
from ...schemas.errors import RequestError
from ...schemas.manifest import is_name
from .build_command import stages_shown
from .commands import compute_of
from .flags import PROGRAM, add_compute

if TYPE_CHECKING:
    from ...context.splatnlp.importer import ImportReport

_FILES = {
    "vocab": "vocab.json: {token: id}",
    "weapon-vocab": "weapon_vocab.json: {weapon_id_NNNN: id}",
    "model": "state dict of the network (.pth)",
    "params": "model_params.json: the network's sizes",
    "sae": "state dict of the autoencoder (.pth)",
    "tokenized-csv": "complete builds, of which partial examples are made",
}
_FOLDERS = {
    "activations": "activations_*_efficient: metadata, dense batches, pooled vectors",
    "transposed": "activations by feature, instead of the dense batches",
    "neuron-acts": "activations as a folder a feature, instead of the dense batches",
}
_NO_EXAMPLES = "no examples: interventions on dataset_slice.contexts only"
_NEEDED = ("vocab", "weapon-vocab")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the import command."""
    parser.add_argument("project", choices=("splatnlp",), help="whose files they are")
    parser.add_argument("--name", metavar="NAME", required=True, help="name of the new bundle, such as ultra")
    files = parser.add_argument_group("what to import")
    for names, metavar in ((_FILES, "FILE"), (_FOLDERS, "DIR")):
        for name, text in names.items():
            files.add_argument(f"--{name}", metavar=metavar, required=name in _NEEDED, help=text)
    how = parser.add_argument_group("how")
    how.add_argument("--verify", type=int, default=0, metavar="N", help="recompute N examples and compare")
    how.add_argument(
        "--instances-per-build", type=int, default=5, metavar="N", help="partial sets a complete build (default: 5)"
    )
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default: 0)")
    how.add_argument(
        "--no-pooled", action="store_true", help="store no computed pooled vectors: they are computed on first use"
    )
    how.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help="home folder of bundles and runs")

    def add(name: str, **settings: Any) -> None:  # noqa: ANN401 - as argparse takes them
        if name != "--pooled-cache":  # an import computes every vector itself
            how.add_argument(name, **settings)

    add_compute(add)


def run_import(given: argparse.Namespace) -> int:
    """Import the files named and say what was made of them."""
    if not is_name(given.name) or given.name == DEMO:
        rule = "is that of the shipped bundle" if given.name == DEMO else "is not allowed"
        raise RequestError(
            f"bundle name {given.name!r} {rule}: choose letters, digits, '.', '_' and '-', at most 64. "
            f"Nothing was imported."
        )
    home = Home.find(given.home)
    folder = home.bundles / given.name
    if folder.exists() or folder.is_symlink():
        raise RequestError(
            f"there is a bundle {given.name!r} already ({folder}): choose another --name, or remove that folder first. "
            f"Nothing was imported."
        )
    try:
        made = _import(given, home, folder)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from what is finished in {folder.parent}", file=sys.stderr)
        return 130
    _tell(made, given.name, folder)
    return 0


def _import(given: argparse.Namespace, home: Home, folder: Path) -> ImportReport:
    from ...context.splatnlp.importer import import_splatnlp  # noqa: PLC0415 - numpy and pyarrow: not for --help
    from ...context.splatnlp.sources import ImportOptions, Sources  # noqa: PLC0415

    named = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name in (*_FILES, *_FOLDERS)}
    paths = {name: Path(path).expanduser().absolute() for name, path in named.items() if path is not None}
    options = ImportOptions(
        instances_per_build=given.instances_per_build,
        seed=given.seed,
        pooled=not given.no_pooled,
        verify=given.verify,
        compute=compute_of(given),
    )
    with stages_shown() as report:
        return import_splatnlp(Sources(**paths), folder, options, stamps=home.root / "verified", report=report)


def _tell(made: ImportReport, name: str, folder: Path) -> None:
    manifest = made.manifest
    parts = [f"{manifest.n_features:,} features"]
    parts.append(f"{manifest.n_examples:,} examples" if manifest.n_examples else _NO_EXAMPLES)
    parts.append("a model" if manifest.model is not None else "no model: observational experiments only")
    print(f"{folder}: {', '.join(parts)}")
    table = manifest.made_by["table"]
    if table:
        print(f"{table['rows_used']:,} rows used ({table['distinct_builds']:,} builds)")
        for reason, count in table["rows_skipped"].items():
            print(f"skipped: {reason}: {count:,}")
        print(*table["first_skipped"], sep="\n", end="\n" if table["first_skipped"] else "")
    for note in made.notes:
        print(f"note: {note}")
    if made.verified is not None:
        print(made.verified.text())
        if not made.verified.agrees:
            print(f"{PROGRAM}: warning: that is more than rounding: these may be another model's", file=sys.stderr)
    print(f"use it with --model {name}")
