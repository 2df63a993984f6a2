"""What the quick start promises of its report."""

from vmae_jax.configs import quickstart
from vmae_jax.spec import build


def test_it_is_evaluated_before_training_and_several_times():
    config = quickstart.get_config()
    evaluation, training = build(config.eval), build(config.train)
    assert evaluation.at_start
    assert training.length["steps"] // evaluation.every["steps"] >= 5
