"""The two vocabularies of a bundle: ability tokens and weapon tokens.

A token of a stackable ability is ``family_AP``; a main-only ability is its bare name; ``<NULL>``, ``<PAD>`` and
``<MASK>`` are special. Rungs (the AP values a family has tokens for) are read off the vocabulary that is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from .errors import BundleError, RequestError, UnknownNameError
from .facts import ABILITIES, MAIN_AP, MAX_AP, Slot, Weapon, weapon_for

Encoding = Literal["thermometer", "single"]
NULL, PAD, MASK = "<NULL>", "<PAD>", "<MASK>"
_RUNG_TOKEN = re.compile(r"^(?P<family>[a-z][a-z_]*?)_(?P<rung>\d{1,2})$")
_WEAPON_TOKEN = re.compile(r"^weapon_id_(\d+)$")


def parse_token(token: str) -> tuple[str, int] | None:
    """Split an ability token into (family, AP rung); None for a special token.

    A main-only ability, which has no rung in its name, is given the 10 AP of its main slot.
    """
    if token.startswith("<"):
        return None
    match = _RUNG_TOKEN.match(token)
    if match:
        return match["family"], int(match["rung"])
    return token, MAIN_AP


def ids_in_order(mapping: Mapping[str, int], what: str) -> tuple[str, ...]:
    """Return the tokens by id; raise BundleError unless the ids are exactly 0 .. n-1."""
    by_id = {index: token for token, index in mapping.items()}
    if sorted(by_id) != list(range(len(mapping))):
        raise BundleError(f"the {what} vocabulary must number its {len(mapping)} tokens 0 .. {len(mapping) - 1}")
    return tuple(by_id[index] for index in range(len(mapping)))


@dataclass(frozen=True)
class Vocabulary:
    """The ability tokens of a bundle.

    Attributes:
        tokens: the tokens by id.
        families: stackable abilities, then main-only ones, each in alphabetical order: the column order of every
            level matrix.
        token_family: for each token id the column of its family, -1 for special tokens.
        token_level: for each token id its AP rung; 10 for a main-only ability, 0 for special tokens.
    """

    tokens: tuple[str, ...]
    families: tuple[str, ...] = field(init=False)
    stackable: tuple[str, ...] = field(init=False)
    main_only: tuple[str, ...] = field(init=False)
    token_family: tuple[int, ...] = field(init=False)
    token_level: tuple[int, ...] = field(init=False)
    family_index: Mapping[str, int] = field(init=False)
    token_id: Mapping[str, int] = field(init=False)
    _rung_ids: Mapping[str, Mapping[int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rung_ids: dict[str, dict[int, int]] = {}
        stackable: set[str] = set()
        for index, token in enumerate(self.tokens):
            parsed = parse_token(token)
            if parsed is None:
                continue
            rung_ids.setdefault(parsed[0], {})[parsed[1]] = index
            if token != parsed[0]:
                stackable.add(parsed[0])
        main_only = tuple(sorted(set(rung_ids) - stackable))
        families = (*sorted(stackable), *main_only)
        columns = {family: column for column, family in enumerate(families)}
        parsed_tokens = [parse_token(token) for token in self.tokens]
        derived = {
            "families": families,
            "stackable": tuple(sorted(stackable)),
            "main_only": main_only,
            "token_family": tuple(-1 if p is None else columns[p[0]] for p in parsed_tokens),
            "token_level": tuple(0 if p is None else p[1] for p in parsed_tokens),
            "family_index": columns,
            "token_id": {token: index for index, token in enumerate(self.tokens)},
            "_rung_ids": {family: dict(sorted(rungs.items())) for family, rungs in rung_ids.items()},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        for special in (NULL, PAD):
            if special not in self.token_id:
                raise BundleError(f"the ability vocabulary has no {special} token")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, int]) -> Self:
        """Build the vocabulary from ``{token: id}``, the form of ``vocab.json``."""
        return cls(ids_in_order(mapping, "ability"))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def null_id(self) -> int:
        """Id of the token that stands for an empty set."""
        return self.token_id[NULL]

    @property
    def pad_id(self) -> int:
        """Id of the token that fills the batch and is masked."""
        return self.token_id[PAD]

    @property
    def mask_id(self) -> int | None:
        """Id of the mask token, in the vocabularies that have one."""
        return self.token_id.get(MASK)

    def check_family(self, family: str) -> str:
        """Return the family, stackable or main-only, or raise UnknownNameError with the nearest name."""
        if family not in self.family_index:
            by_short = {ABILITIES[name].short.casefold(): name for name in self.families if name in ABILITIES}
            raise UnknownNameError("family", family, self.families, meant=by_short.get(family.casefold()))
        return family

    def is_main_only(self, family: str) -> bool:
        """Whether the family is a main-only ability (present at 10 AP or absent)."""
        return self.check_family(family) in self.main_only

    def slot(self, family: str) -> Slot | None:
        """Gear slot of a main-only ability; None for a stackable one or one outside the table."""
        ability = ABILITIES.get(self.check_family(family))
        return ability.slot if ability else None

    def rungs(self, family: str) -> tuple[int, ...]:
        """AP rungs the vocabulary has for the family, ascending; ``(10,)`` for a main-only ability."""
        return tuple(self._rung_ids[self.check_family(family)])

    def family_tokens(self, family: str) -> tuple[int, ...]:
        """Token ids of the family, by ascending rung."""
        return tuple(self._rung_ids[self.check_family(family)].values())

    def resolve(self, family: str, ap: int) -> int:
        """Return the largest rung of the family that is <= ``ap``, as the tokenizer does; 0 stays 0 (absent).

        Raises:
            RequestError: for AP below the lowest rung or above what a build can have.
        """
        if ap == 0:
            return 0
        rungs = self.rungs(family)
        if ap > MAX_AP or ap < rungs[0]:
            raise RequestError(
                f"rung {ap} of {family!r} is out of range: 0 (absent) or {rungs[0]} to {MAX_AP} AP is allowed; "
                f"the vocabulary's rungs are {list(rungs)}. Nothing was run."
            )
        return max(rung for rung in rungs if rung <= ap)

    def encode(self, family: str, level: int, encoding: Encoding = "thermometer") -> tuple[int, ...]:
        """Token ids that write ``family`` at ``level``.

        ``thermometer`` is every rung token up to the level, as the tokenizer writes; ``single`` the rung's token
        alone. ``level`` must be 0 or a rung of the vocabulary (see `resolve`).
        """
        rung_ids = self._rung_ids[self.check_family(family)]
        if level == 0:
            return ()
        if level not in rung_ids:
            allowed = f"allowed are 0 and {list(rung_ids)}"
            raise RequestError(f"level {level} is no rung of {family!r}: {allowed}. Nothing was run.")
        if encoding == "single":
            return (rung_ids[level],)
        return tuple(index for rung, index in rung_ids.items() if rung <= level)

    def levels(self, token_ids: Iterable[int]) -> dict[str, int]:
        """Level of each family present in a set of token ids: its highest rung."""
        found: dict[str, int] = {}
        for index in token_ids:
            column = self.token_family[index]
            if column >= 0:
                family = self.families[column]
                found[family] = max(found.get(family, 0), self.token_level[index])
        return found

    def parse_unit(self, text: str) -> tuple[str, int]:
        """Read ``family_AP``, or the bare name of a main-only ability, as (family, resolved rung).

        Raises:
            RequestError: when the family is stackable and no AP is given, or the AP is out of range.
        """
        match = _RUNG_TOKEN.match(text)
        if match and match["family"] in self.family_index:
            return match["family"], self.resolve(match["family"], int(match["rung"]))
        self.check_family(text)
        if text in self.stackable:
            raise RequestError(
                f"{text!r} needs its AP, such as {text}_{self.rungs(text)[0]}; only main-only do not. Nothing was run."
            )
        return text, MAIN_AP


@dataclass(frozen=True)
class WeaponVocabulary:
    """The weapon tokens of a bundle, with what the project knows of each kit.

    Attributes:
        tokens: the tokens by id.
        weapon_ids: the game's kit id by token id.
        facts: the kit by token id; class "unknown" where the project's table has none.
    """

    tokens: tuple[str, ...]
    weapon_ids: tuple[int, ...] = field(init=False)
    facts: tuple[Weapon, ...] = field(init=False)
    token_id: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        matches = [_WEAPON_TOKEN.match(token) for token in self.tokens]
        bad = [token for token, match in zip(self.tokens, matches, strict=True) if match is None]
        if bad:
            raise BundleError(f"weapon tokens must read weapon_id_NNNN; got {bad[:3]}")
        weapon_ids = tuple(int(match[1]) for match in matches if match)
        object.__setattr__(self, "weapon_ids", weapon_ids)
        object.__setattr__(self, "facts", tuple(weapon_for(weapon_id) for weapon_id in weapon_ids))
        object.__setattr__(self, "token_id", {token: index for index, token in enumerate(self.tokens)})

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, int]) -> Self:
        """Build the vocabulary from ``{"weapon_id_1111": id}``, the form of ``weapon_vocab.json``."""
        return cls(ids_in_order(mapping, "weapon"))

    def __len__(self) -> int:
        return len(self.tokens)

    def resolve(self, weapon: str | int) -> int:
        """Return the token id of a weapon given by kit id, token or name (in any case).

        Raises:
            UnknownNameError: when the bundle's vocabulary has no such weapon.
        """
        text = str(weapon).strip()
        if text in self.token_id:
            return self.token_id[text]
        digits = text.removeprefix("weapon_id_")
        if digits.isdecimal():
            text = f"weapon_id_{int(digits)}"
            if text in self.token_id:
                return self.token_id[text]
        by_name = {kit.name.casefold(): index for index, kit in enumerate(self.facts)}
        if text.casefold() in by_name:
            return by_name[text.casefold()]
        raise UnknownNameError(
            "weapon", weapon, [kit.name for kit in self.facts], "A kit id or a weapon_id_NNNN token will do too."
        )
