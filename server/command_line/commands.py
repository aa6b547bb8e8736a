"""What each subcommand does, once its flags are read."""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Console

from ...context.home import Home
from ...schemas.catalogue import Experiment
from ...schemas.errors import RequestError
from ...schemas.faults import explain
from ...schemas.job import Job
from ...schemas.result import ExperimentResult
from ...schemas.spec import ExperimentSpec, parse_spec_json
from .. import queries
from ..executor import Executor
from ..queries import ListArguments
from ..render import to_markdown
from ..store.index import Query
from ..store.store import Store
from . import terminal
from .flags import PROGRAM, flag, flags_of, format_of, grouped, spec_of
from .progress import progress_shown

if TYPE_CHECKING:
    from ...context.device import Compute


def compute_of(given: argparse.Namespace) -> Compute:
    """Device, precision and threads, as the flags name them."""
    from ...context.device import Compute  # noqa: PLC0415 - not for --help

    kept = Path(given.pooled_cache).expanduser() if getattr(given, "pooled_cache", None) else None
    return Compute(
        device=given.device or "auto", dtype=given.dtype or "float32", threads=given.threads, pooled_cache=kept
    )


def home_of(given: argparse.Namespace) -> Home:
    """The home folder asked for.

    Raises:
        RequestError: it is a file.
    """
    home = Home.find(given.home)
    if home.root.exists() and not home.root.is_dir():
        raise RequestError(f"the home folder {home.root} is a file: name a folder, with --home or MECHINTERP_HOME.")
    return home


def run_flags(experiment: Experiment, given: argparse.Namespace) -> int:
    """Run the experiment that the flags describe."""
    return _run(spec_of(experiment, given), given, None)


def run_spec_file(given: argparse.Namespace) -> int:
    """Run the spec of a JSON file."""
    path = Path(given.spec_path)
    if not given.spec_path:
        raise RequestError("--spec-path names no file. Nothing was run.")
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RequestError(f"--spec-path {path} cannot be read: {error.strerror}. Nothing was run.") from error
    return _run(parse_spec_json(text, str(path)), given, str(path))


def _run(spec: ExperimentSpec, given: argparse.Namespace, spec_path: str | None) -> int:
    from ...context.contexts import Contexts  # noqa: PLC0415 - numpy and the bundles: not for --help

    home = home_of(given)
    bundle = Path(given.bundle) if given.bundle else None
    context = Contexts(home, compute=compute_of(given)).get(spec.model_type, path=bundle)
    store = Store(home.runs)
    executor = Executor(store)
    if given.dry_run:
        view = queries.dry_run(executor, spec, context)
        print(view.model_dump_json(indent=1) if format_of(given) == "json" else terminal.dry_run_text(view))
        return 0
    folder = Path(given.output_dir) if given.output_dir else None
    with interruptible() as stopped, progress_shown() as report:
        job = Job(on_progress=report, is_cancelled=stopped)
        result = executor.execute(spec, context, job=job, fresh=given.fresh, output_dir=folder, spec_path=spec_path)
    show_result(result, store.path(result.spec_id), format_of(given))
    return 0 if result.success else 1


def show_result(result: ExperimentResult, path: Path, form: str) -> None:
    """Print a result in one of the three formats."""
    if form == "json":
        print(result.model_dump_json(indent=1))
    elif form == "markdown":
        print(to_markdown(result, path), end="")
    else:
        terminal.print_result(Console(), result, path)


def list_types(given: argparse.Namespace) -> int:
    """Print the experiment types."""
    view, form = queries.describe_types(), format_of(given)
    if form == "json":
        print(view.model_dump_json(indent=1))
        return 0
    if form == "table":
        terminal.print_types(Console(), view.types)
    else:
        for item in view.types:
            print(f"{item.type:26} {item.command:16} {item.summary} ({', '.join(item.methods)}; {item.cost})")
    if view.not_in_this_version:
        print(f"defined, not in this version: {', '.join(view.not_in_this_version)}")
    return 0


def list_results(given: argparse.Namespace) -> int:
    """Print stored results."""
    fields = grouped(given, "fields")
    try:
        wanted = ListArguments.model_validate(fields)
    except ValidationError as error:
        raise RequestError(explain(error, {}, called=flag)) from error
    store, form = Store(home_of(given).runs), format_of(given)
    if form == "json":
        print(queries.list_results(store, wanted).model_dump_json(indent=1))
        return 0
    total, entries = queries.find_results(store, wanted)
    filters = flags_of({name: value for name, value in fields.items() if name not in {"limit", "offset"}})
    counted = _counted(store, wanted, filters, shown=len(entries), total=total)
    if form == "table" and entries:
        terminal.print_runs(Console(), entries, counted)
        return 0
    for entry in entries:
        print(f"- `{entry.spec_id}` {entry.experiment_type} f{entry.feature_id} {entry.bundle}: {terminal.said(entry)}")
    print(counted)
    return 0


def _counted(store: Store, wanted: ListArguments, filters: str, *, shown: int, total: int) -> str:
    """How many results are shown, of how many that match, of how many there are."""
    stored = store.search(Query(limit=1))[0]
    if not stored:
        first = f"{PROGRAM} overview --feature-id 0"
        return f"no result is stored in {store.results} yet; a first look at a feature stores one: `{first}`"
    if not total:
        return f"none of the {stored:,} stored results matches {filters}"
    if not shown:
        return f"--offset {wanted.offset} is past the last of {total:,} results"
    if filters:
        return f"{shown} of {total:,} results that match {filters}; {stored:,} stored in all"
    return f"{shown} of {stored:,} stored results"


def show(given: argparse.Namespace) -> int:
    """Print a stored result."""
    store = Store(home_of(given).runs)
    result = store.result(given.id)
    show_result(result, store.path(given.id), format_of(given))
    return 0


def reindex(given: argparse.Namespace) -> int:
    """Read every stored result anew and say what was found."""
    store = Store(home_of(given).runs)
    found = store.reindex()
    print(f"{found.count} results in {store.results}; the index is {store.index.path}")
    if found.removed:
        print(f"{found.removed} temporary files and folders of interrupted writers removed")
    for name, reason in found.unreadable:
        print(f"unreadable: {name}: {reason}")
    return 0


def verify_bundle(given: argparse.Namespace) -> int:
    """Hash every file of a bundle and compare with its manifest."""
    from ...context.bundle import Bundle  # noqa: PLC0415 - numpy, not for --help

    home = home_of(given)
    # On the command line a path is the user's own; a plain name is always that of a bundle in the home folder.
    own = given.bundle or (given.name if given.name and Path(given.name).name != given.name else None)
    folder = Path(own) if own else home.bundle_path(given.name or home.default_bundle())
    bundle = Bundle.open(folder, hash_files=True)
    sizes = f"{bundle.manifest.n_features:,} features, {bundle.manifest.n_examples:,} examples"
    print(f"{folder}: {len(bundle.manifest.files)} files as the manifest states; {sizes}")
    print(f"fingerprint {bundle.fingerprint}")
    return 0


def demo(given: argparse.Namespace) -> int:
    """Run the demonstration."""
    from .demo import run_demo  # noqa: PLC0415 - mcp takes most of a second to import

    return run_demo(home_of(given))


@contextmanager
def interruptible() -> Generator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a cancellation, so that finished tables are kept; the second one kills."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop.is_set
        return

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        logging.getLogger(__name__).warning("stopping at the next batch; once more to stop at once")

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop.is_set
    finally:
        signal.signal(signal.SIGINT, before)
