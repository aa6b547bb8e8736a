"""The trainer: order of pooled rows, the planted loss by hand, the schedule, and that a rule can be learned."""

import numpy as np
import pytest
import torch
from mechinterp_runner.context.builder.assemble import ModelSize
from mechinterp_runner.context.builder.batches import BatchSource
from mechinterp_runner.context.builder.codec import Codec
from mechinterp_runner.context.builder.demo_rules import demo_rules
from mechinterp_runner.context.builder.rules import rule_value
from mechinterp_runner.context.builder.train import (
    DOSE_PRECISION,
    MARGIN,
    Trainer,
    TrainOptions,
    _PlantedLoss,
    _rate,
    pooled_vectors,
    reproducible,
)
from mechinterp_runner.context.model import SplatGPT
from mechinterp_runner.context.token_sets import TokenSets
from mechinterp_runner.schemas.vocabulary import WeaponVocabulary

TINY = ModelSize(16, 16, 1, 2, 2)


def silent(stage: str, done: int, total: int, note: str) -> None:
    """No progress is shown."""


def test_pooled_vectors_come_in_the_order_of_the_sets_whatever_the_chunk(
    codec: Codec, weapons: WeaponVocabulary, builds: TokenSets
) -> None:
    torch.manual_seed(0)
    model = SplatGPT(TINY.params(codec, weapons)).eval()
    some = TokenSets(builds.weapon[:50], builds.present[:50] & (np.random.default_rng(0).random((50, 141)) < 0.5))
    alone = np.concatenate([pooled_vectors(model, codec, some.take(slice(i, i + 1))) for i in range(50)])
    for chunk in (7, 2048):
        assert np.abs(pooled_vectors(model, codec, some, chunk) - alone).max() < 1e-5


def test_planted_loss_by_hand() -> None:
    rules = [rule for rule in demo_rules() if rule.kind in {"and", "linear_dose"}]
    dose, pair = rules
    loss = _PlantedLoss(rules)
    assert loss.scale.tolist() == pytest.approx([dose.height / DOSE_PRECISION, pair.height])
    target = torch.zeros(32, 2)
    target[0] = torch.tensor([dose.height, pair.height])
    hidden = torch.full((32, 2), -9.0)
    hidden[0] = target[0]
    assert loss(hidden, target).item() == 0.0
    hidden[1, 1] = 0.0
    loss.recent = torch.ones(2)
    silent_error = MARGIN**2 / (32 / 16)
    weight = (1 - 0.03 + 0.03 * silent_error) / ((2 * (1 - 0.03) + 0.03 * silent_error) / 2)
    assert loss(hidden, target).item() == pytest.approx(weight * silent_error, rel=1e-5)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    options = TrainOptions(steps=1000, warmup=100)
    assert _rate(0, options) == pytest.approx(0.01)
    assert _rate(100, options) == pytest.approx(1.0)
    assert _rate(550, options) == pytest.approx(0.5)
    assert _rate(1000, options) == pytest.approx(0.0)


def test_a_threshold_is_learned_in_a_few_seconds(codec: Codec, weapons: WeaponVocabulary, builds: TokenSets) -> None:
    rule = demo_rules()[8].model_copy(update={"feature_id": 0})
    source = BatchSource(builds, np.full(len(builds), 1 / len(builds)), codec, weapons, [rule])
    with reproducible(seed=0, threads=1):
        options = TrainOptions(steps=100, batch_size=96, warmup=10, learning_rate=6e-3)
        trained = Trainer(TINY.params(codec, weapons), source, options, seed=0).run(silent)
        pooled = pooled_vectors(trained.model, codec, builds)
    hidden = pooled @ trained.probe_weight[0] + trained.probe_bias[0]
    wanted = rule_value(rule, builds, codec.vocabulary, weapons)
    assert np.corrcoef(np.clip(hidden, 0, 6), wanted)[0, 1] > 0.95
    assert trained.curve[-1][0] == 100
    assert trained.curve[-1][2] < 0.2 * trained.curve[0][2]
