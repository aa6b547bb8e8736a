"""Reading ``.pth`` state dicts, ``model_params.json`` and the vocabularies; everything is checked before it is used."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ...schemas.errors import BundleError, RequestError
from ...schemas.manifest import ModelParams
from ...schemas.vocabulary import PAD, Vocabulary, WeaponVocabulary
from .sources import NOTHING

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, NDArray[Any]]
SAE_KEYS = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder_bias")
SAE_OTHERS = ("usage_ema", "decoder.bias")
"""Keys that an SAE file may have beside those it must; ``decoder.bias`` is not used and left out."""


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of a file; raises RequestError for anything else."""
    try:
        loaded: object = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} cannot be read as JSON: {error}. {NOTHING}") from error
    if not isinstance(loaded, dict):
        raise RequestError(f"{path} holds a {type(loaded).__name__} where one JSON object is expected. {NOTHING}")
    return {str(key): value for key, value in loaded.items()}


def _read_ids(path: Path) -> dict[str, int]:
    loaded = read_json(path)
    for token, index in loaded.items():
        if type(index) is not int:
            raise RequestError(f"{path}: the id of {token!r} is {index!r}; it must be a whole number. {NOTHING}")
    return loaded


def read_vocabulary(path: Path) -> Vocabulary:
    """``vocab.json``."""
    try:
        return Vocabulary.from_mapping(_read_ids(path))
    except BundleError as error:
        raise RequestError(f"{path}: {error}. {NOTHING}") from error


def read_weapon_vocabulary(path: Path) -> WeaponVocabulary:
    """``weapon_vocab.json``."""
    try:
        return WeaponVocabulary.from_mapping(_read_ids(path))
    except BundleError as error:
        raise RequestError(f"{path}: {error}. {NOTHING}") from error


def read_params(path: Path, vocabulary: Vocabulary, weapons: WeaponVocabulary) -> ModelParams:
    """``model_params.json``, compared with the vocabularies.

    Raises:
        RequestError: a size is missing or no number, or it is not that of the vocabulary.
    """
    try:
        params = ModelParams.model_validate(read_json(path))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise RequestError(f"{path}: {faults}. {NOTHING}") from error
    there = {
        "vocab_size": (len(vocabulary), "the ability vocabulary has {} tokens"),
        "weapon_vocab_size": (len(weapons), "the weapon vocabulary has {} tokens"),
        "pad_token_id": (vocabulary.pad_id, f"the ability vocabulary gives {PAD} the id {{}}"),
    }
    for name, (wanted, what) in there.items():
        got = getattr(params, name)
        if got != wanted:
            advice = "Give the vocabularies that the model was trained with"
            raise RequestError(f"{path}: {name} is {got}, but {what.format(wanted)}. {advice}. {NOTHING}")
    return params


def _reason(error: Exception) -> str:
    """What torch found, in one line, without its advice on how to load code as well."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code:
        return f"it asks for the Python object {code[1]}"
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or holds more than tensors"
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _read_state(path: Path) -> dict[str, Tensor]:
    """A state dict, read without running any code that the file may hold."""
    import torch  # noqa: PLC0415 - one second, only where weights are read

    advice = "It must be a plain state dict, as torch.save(model.state_dict()) writes"
    try:
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, pickle.UnpicklingError) as error:
        raise RequestError(f"{path} cannot be read with weights only: {_reason(error)}. {advice}. {NOTHING}") from error
    if not isinstance(loaded, dict):
        raise RequestError(f"{path} holds a {type(loaded).__name__}. {advice}. {NOTHING}")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise RequestError(f"{path}: {name!r} is a {type(value).__name__}, no tensor. {advice}. {NOTHING}")
    return {str(name): value for name, value in loaded.items()}


def _arrays(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], sizes: str) -> State:
    """The tensors as float32 arrays, once each is of the shape it must have.

    Raises:
        RequestError: the first key that is missing, not expected, of another shape, or not finite.
    """
    import torch  # noqa: PLC0415

    for name in sorted(set(wanted) ^ set(state)):
        fault = f"has no {name!r}" if name in wanted else f"has an unexpected {name!r}"
        raise RequestError(f"{path} {fault}; it does not fit {sizes}. {NOTHING}")
    for name, shape in wanted.items():
        got = tuple(state[name].shape)
        if got != shape:
            raise RequestError(f"{path}: {name!r} has the shape {got} where {sizes} asks for {shape}. {NOTHING}")
        if not state[name].is_floating_point() or state[name].layout != torch.strided or state[name].is_meta:
            kind = f"{state[name].dtype} in {state[name].layout} on {state[name].device}"
            raise RequestError(f"{path}: {name!r} holds {kind}; dense floating-point numbers are expected. {NOTHING}")
    arrays = {name: state[name].detach().float().contiguous().numpy() for name in wanted}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RequestError(f"{path}: {name!r} holds NaN, or weights that are infinite in float32. {NOTHING}")
    return arrays


def read_model(path: Path, params: ModelParams, params_path: Path) -> State:
    """The network's weights, every key and shape as ``model_params.json`` says."""
    import torch  # noqa: PLC0415

    from ..model import SplatGPT  # noqa: PLC0415

    try:
        with torch.device("meta"):
            expected = SplatGPT(params).state_dict()
    except ValueError as error:
        raise RequestError(f"{params_path}: {error}. {NOTHING}") from error
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    return _arrays(path, _read_state(path), wanted, params_path.name)


def read_sae(path: Path, params: ModelParams | None) -> State:
    """The autoencoder's weights; its width is the network's, where there is one."""
    state = _read_state(path)
    weight = state.get("encoder.weight")
    if weight is None or weight.ndim != 2 or not weight.numel():
        got = "none" if weight is None else f"one of shape {tuple(weight.shape)}"
        raise RequestError(f"{path} must have an 'encoder.weight' of [features, hidden]; it has {got}. {NOTHING}")
    features, dim = weight.shape
    if params is not None and dim != params.hidden_dim:
        raise RequestError(
            f"{path}: 'encoder.weight' has the shape {(features, dim)} where hidden_dim {params.hidden_dim} of the "
            f"model asks for {(features, params.hidden_dim)}. {NOTHING}"
        )
    shapes = ((features, dim), (features,), (dim, features), (dim,))
    wanted = dict(zip(SAE_KEYS, shapes, strict=True))
    others = dict(zip(SAE_OTHERS, ((features,), (dim,)), strict=True))
    wanted |= {name: shape for name, shape in others.items() if name in state}
    arrays = _arrays(path, state, wanted, "'encoder.weight'")
    arrays.pop("decoder.bias", None)
    return arrays


def as_mapping(tokens: tuple[str, ...]) -> dict[str, int]:
    """``{token: id}``, in the order of the ids."""
    return dict(zip(tokens, np.arange(len(tokens)).tolist(), strict=True))
