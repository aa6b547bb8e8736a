"""How pages read: on a worker thread, with errors a client can act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mcp.shared.exceptions import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS

from ...context.home import Home
from ...schemas.errors import MechinterpError, RequestError
from ..app import App

if TYPE_CHECKING:
    from ...context.bundle import Bundle

T = TypeVar("T")


async def read(app: App, work: Callable[[], T]) -> T:
    """Run a short function on a worker thread.

    Raises:
        MCPError: what the project's own errors say, as invalid parameters when the caller can mend them.
    """
    try:
        return await app.read(work)
    except MechinterpError as error:
        code = INVALID_PARAMS if isinstance(error, RequestError) else INTERNAL_ERROR
        raise MCPError(code=code, message=str(error)) from error


def unchecked_bundle(home: Home, name: str | None = None) -> Bundle:
    """A bundle (default: the default one) for its sizes and vocabularies; files are neither hashed nor opened.

    Raises:
        UnknownNameError: no bundle of that name.
        BundleError: it has no readable manifest.
    """
    from ...context.bundle import Bundle, read_manifest  # noqa: PLC0415 - the handshake need not wait for numpy

    folder = home.bundle_path(name or home.default_bundle())
    manifest, fingerprint = read_manifest(folder)
    return Bundle(folder, manifest, fingerprint)
