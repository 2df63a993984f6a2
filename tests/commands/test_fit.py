"""Parts of a config that do not fit each other are reported before anything is compiled."""

import pytest

from vmae_jax.commands.experiment import experiment
from vmae_jax.configs import finetune
from vmae_jax.spec import ConfigError


@pytest.mark.parametrize(
    ("accumulate", "batch", "group", "words"),
    [
        (1, 24, 32, "a (micro-)batch of 48 clips does not divide into mixing groups of 32: set group"),
        (1, 8, 32, None),  # 16 clips: one group
        (2, 24, 32, "a batch of 48 clips does not divide into train.accumulate=2 micro-batches of whole groups of 32"),
        (3, 24, 6, "a batch of 48 clips does not divide into train.accumulate=3 micro-batches of whole groups of 6"),
        (2, 12, None, "train.accumulate=2 would divide a batch whose clips are all mixed with each other; set"),
        (2, 24, 8, None),
    ],
)
def test_clips_that_do_not_divide_into_mixing_groups(accumulate, batch, group, words):
    config = finetune.get_config("B,smoke,weights=none")
    config.data.global_batch, config.train.accumulate, config.method.mix.group = batch, accumulate, group
    if words is None:
        experiment(config)
        return
    with pytest.raises(ConfigError) as error:
        experiment(config)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
