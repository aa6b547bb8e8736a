"""Messages that say what was got, what is allowed and what to do next."""

import pytest
from mechinterp_runner.schemas import errors
from mechinterp_runner.schemas.errors import MechinterpError, RequestError, UnknownNameError, nearest

NAMES = ["special_charge_up", "swim_speed_up", "comeback"]


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        ("swim_sped_up", "swim_speed_up"),
        ("SWIM_SPEED_UP", "swim_speed_up"),
        ("charge", "special_charge_up"),
        ("zzzz", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_close_or_contains_what_was_given(got, expected):
    assert nearest(got, NAMES) == expected


def test_the_nearest_name_keeps_its_own_case():
    assert nearest("splatershot", ["Splattershot", ".52 Gal"]) == "Splattershot"


def test_an_unknown_name_says_what_was_got_the_nearest_and_all_that_is_allowed():
    error = UnknownNameError("family", "swim_sped_up", NAMES, "Ask describe_context.")
    assert str(error) == (
        "unknown family 'swim_sped_up': did you mean 'swim_speed_up'? "
        "Allowed: special_charge_up, swim_speed_up, comeback. Ask describe_context."
    )
    assert (error.got, error.suggestion) == ("swim_sped_up", "swim_speed_up")


def test_an_unknown_name_near_to_nothing_guesses_nothing():
    assert str(UnknownNameError("family", 7, NAMES)).startswith("unknown family 7. Allowed: special_charge_up,")


def test_nothing_allowed_is_said_so():
    assert "(none)" in str(UnknownNameError("bundle", "x", []))


def test_a_long_list_of_names_is_cut_and_counted():
    message = str(UnknownNameError("token", "x", [f"name{i}" for i in range(100)]))
    assert "name59" in message
    assert "name60" not in message
    assert "(100 in all)" in message


def test_every_error_is_in_the_tree_at_the_top_of_its_file():
    found = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(found) == 8
    assert all(issubclass(kind, MechinterpError) for kind in found)
    assert all(kind.__name__ in errors.__doc__ for kind in found)


@pytest.mark.parametrize("kind", ["UnknownNameError", "EmptySliceError", "IdTakenError"])
def test_what_a_caller_can_fix_is_a_request_error(kind):
    assert issubclass(getattr(errors, kind), RequestError)


@pytest.mark.parametrize("kind", ["BundleError", "StoreError", "Cancelled"])
def test_what_a_caller_cannot_fix_by_asking_differently_is_none(kind):
    assert not issubclass(getattr(errors, kind), RequestError)
