"""Weights, sizes and vocabularies are checked against one another before anything is written, by key."""

import numpy as np
import pytest
from mechinterp_runner.context.device import Compute


@pytest.mark.parametrize(
    ("vocab", "said"),
    [
        ([], "holds a list where one JSON object is expected"),
        ({"a": 0.5}, "the id of 'a' is 0.5"),
        ({"<NULL>": 0, "<PAD>": 2}, "must number its 2 tokens 0 .. 1"),
        ({"<NULL>": 0, "haunt": 1}, "no <PAD> token"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(before_any_work, artefacts, vocab, said):
    path = artefacts.json("bad vocab.json", vocab)
    message = before_any_work(**artefacts.activations(dense=True), vocab=path)
    assert said in message
    assert str(path) in message


def test_a_file_that_is_no_json_is_refused(before_any_work, artefacts):
    path = artefacts.folder / "bad.json"
    path.write_text("{")
    assert f"{path} cannot be read as JSON" in before_any_work(**artefacts.activations(dense=True), weapon_vocab=path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 21}, "vocab_size is 21, but the ability vocabulary has 20 tokens"),
        ({"weapon_vocab_size": 9}, "weapon_vocab_size is 9, but the weapon vocabulary has 4 tokens"),
        ({"pad_token_id": 0}, "pad_token_id is 0, but the ability vocabulary gives <PAD> the id"),
        ({"num_heads": 3}, "hidden_dim 8 is not a multiple of num_heads 3"),
        ({"hidden_dim": "wide"}, "hidden_dim: Input should be a valid integer"),
        ({"hidden_dim": 16}, "'encoder.weight' has the shape (12, 8) where hidden_dim 16"),
        ({"num_layers": 2}, "has no 'transformer_layers.1.cross_attention.feedforward.0.bias'"),
        ({"num_inducing_points": 4}, "'transformer_layers.0.set_transformer.enc_layer1.inducing_points' has the shape"),
    ],
)
def test_weights_that_do_not_fit_their_sizes_are_refused_by_key(before_any_work, artefacts, change, said):
    network = artefacts.network()
    pad = artefacts.contents.vocabulary["<PAD>"]
    if change.get("pad_token_id") == pad:
        change = {"pad_token_id": pad + 1}
    assert said in before_any_work(**artefacts.activations(), **(network | {"params": artefacts.params(**change)}))


def spoilt(state, **changes):
    return {key: value for key, value in (state | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output_layer.bias": None}, "has no 'output_layer.bias'"),
        ({"module.extra": np.zeros(2, np.float32)}, "has an unexpected 'module.extra'"),
        ({"output_layer.bias": np.zeros(3, np.float32)}, "'output_layer.bias' has the shape (3,)"),
        (
            {"output_layer.bias": np.full(20, np.nan, np.float32)},
            "'output_layer.bias' holds NaN, or weights that are infinite",
        ),
        ({"output_layer.bias": np.full(20, 1e300)}, "'output_layer.bias' holds NaN, or weights that are infinite"),
        ({"output_layer.bias": np.zeros(20, np.int64)}, "'output_layer.bias' holds torch.int64"),
    ],
)
def test_a_spoilt_state_dict_is_refused_by_key(before_any_work, artefacts, changes, said):
    network = artefacts.network()
    path = artefacts.pth("spoilt model.pth", spoilt(artefacts.model_state(), **changes))
    message = before_any_work(**artefacts.activations(), **(network | {"model": path}))
    assert said in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder.weight": None}, "must have an 'encoder.weight' of [features, hidden]; it has none"),
        ({"encoder.weight": np.zeros((0, 8), np.float32)}, "it has one of shape (0, 8)"),
        ({"decoder_bias": None}, "has no 'decoder_bias'"),
        ({"threshold": np.zeros(12, np.float32)}, "has an unexpected 'threshold'"),
        ({"decoder.weight": np.zeros((12, 8), np.float32)}, "'decoder.weight' has the shape (12, 8)"),
    ],
)
def test_a_spoilt_autoencoder_is_refused_by_key(before_any_work, artefacts, changes, said):
    path = artefacts.pth("spoilt.pth", spoilt(artefacts.sae_state(), **changes))
    assert said in before_any_work(**artefacts.activations(), **(artefacts.network() | {"sae": path}))


def test_tensors_that_hold_no_dense_numbers_are_refused_by_key(before_any_work, artefacts):
    import torch

    network, rows = artefacts.network(), artefacts.activations()
    state = torch.load(network["model"], weights_only=True)
    for kind in (state["output_layer.weight"].to_sparse(), state["output_layer.weight"].to("meta")):
        path = artefacts.folder / "no numbers.pth"
        torch.save(state | {"output_layer.weight": kind}, path)
        message = before_any_work(**rows, **(network | {"model": path}))
        assert "'output_layer.weight' holds torch.float32" in message
        assert "dense floating-point numbers are expected" in message


def test_vocabularies_may_begin_with_a_byte_order_mark(artefacts):
    path = artefacts.folder / "marked.json"
    path.write_text(artefacts.vocabularies()["vocab"].read_text(), encoding="utf-8-sig")
    context, _ = artefacts.load(**artefacts.network(), vocab=path)
    assert dict(context.vocabulary.token_id) == artefacts.contents.vocabulary


def test_a_device_that_is_not_there_is_refused_before_hours_of_reading(before_any_work, artefacts):
    absent = Compute(device="cuda:99")
    message = before_any_work(**artefacts.activations(dense=True), **artefacts.network(), compute=absent)
    assert "device 'cuda:99' is not available here" in message


class Harmful:
    """What a pickle may do when it is loaded."""

    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_that_would_run_code_is_refused_and_not_run(before_any_work, artefacts, capsys):
    import torch

    path = artefacts.folder / "harmful.pth"
    torch.save({"output_layer.bias": Harmful()}, path)
    rows = artefacts.activations()
    message = before_any_work(**rows, **(artefacts.network() | {"model": path}))
    assert "cannot be read with weights only: it asks for the Python object print. It must be" in message
    assert "weights_only" not in message  # torch's advice to load such a file all the same
    path.write_bytes(b"not a pickle at all")
    assert "cannot be read with weights only" in before_any_work(**rows, **(artefacts.network() | {"model": path}))
    torch.save([1, 2], path)
    assert "holds a list" in before_any_work(**rows, **(artefacts.network() | {"model": path}))
    torch.save({"step": 3}, path)
    assert "'step' is a int, no tensor" in before_any_work(**rows, **(artefacts.network() | {"model": path}))
    assert "ran" not in capsys.readouterr().out
