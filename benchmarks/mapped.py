"""A million examples mapped from disk: reading a feature off their pooled vectors, and the memory a server needs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mcp.client import Client

from ..context.contexts import load_context
from ..schemas.errors import RequestError
from ..server.http.settings import MCP_PATH
from .data import N_FEATURES, write_examples
from .frame import Bar, Row, in_turn
from .process import address_of, anonymous_bytes, running, serve_command

EXAMPLES, QUICK_EXAMPLES, HIDDEN = 1_000_000, 2_000, 512
REPEATS, QUICK_REPEATS = 7, 1
READ_BAR, MEMORY_BAR = Bar("ratio", 1.5), Bar("bytes", 600e6)
_NAME = "examples"


def measure(*, quick: bool = False) -> list[Row]:
    """Measure reading a feature, beside one pass over the vectors; and the memory of an idle server."""
    n = QUICK_EXAMPLES if quick else EXAMPLES
    with TemporaryDirectory(prefix="bench-") as folder:
        bundle = Path(folder, "bundles", _NAME)
        bundle.parent.mkdir()
        write_examples(bundle, n, HIDDEN)
        row = _reading(bundle, n, QUICK_REPEATS if quick else REPEATS)
        return [row, asyncio.run(_idle_memory(Path(folder), n))]


def _reading(bundle: Path, n: int, repeats: int) -> Row:
    """Activations of one feature after another, each read for the first time from vectors that are in memory."""
    ctx = load_context(bundle=bundle, device="cpu")
    pooled = np.asarray(ctx.bundle.array("pooled.npy"))
    features = iter(range(N_FEATURES))
    calls = {"read": lambda: ctx.activations(next(features)), "pass": lambda: np.add.reduce(pooled, axis=0)}
    in_turn(calls, 1)
    medians = in_turn(calls, min(repeats, N_FEATURES - 1))
    what = f"activations() from pooled vectors, {n:,} x {HIDDEN}"
    return Row(what, medians["read"], "one sum over the vectors", medians["pass"], repeats, READ_BAR)


async def _idle_memory(home: Path, n: int) -> Row:
    """Anonymous memory of a server that has described a bundle and run an observational experiment on it."""
    with running(serve_command(home, "--transport", "http", "--port", "0")) as process:
        async with Client(address_of(process) + MCP_PATH) as client:
            before = anonymous_bytes(process.pid)
            await _call(client, "describe_context", {"model_type": _NAME})
            await _call(client, "weapon_sweep", {"feature_id": 0, "model_type": _NAME})
            after = anonymous_bytes(process.pid)
    what = f"anonymous memory of an idle server, {n:,} examples mapped"
    return Row(what, after, "before its first call", before, 1, MEMORY_BAR, unit="B")


async def _call(client: Client, tool: str, arguments: dict[str, object]) -> None:
    called = await client.call_tool(tool, arguments)
    if called.is_error:
        raise RequestError(f"the call that is measured failed: {called.content}")
