"""A batch of clips with sound, and tiny methods that read it, for the tests of multimodal methods."""

import numpy as np
from random_batch import batch_of

from vmae_jax.inputs.log_mel import kaldi
from vmae_jax.inputs.readers import sound, video
from vmae_jax.masking.random import random
from vmae_jax.methods import joint
from vmae_jax.models.spectrogram import spectrogram
from vmae_jax.models.variants import vit
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.targets.spectrogram import spectrogram as values

TINY = {"size": "micro", "patch": 8, "decoder_depth": 1, "dtype": "float32"}
FORM = kaldi(bins=16)
SAMPLES = FORM.samples(16)  # frames of the model
MODELS = {
    "video": vit(frames=4, resolution=16, **TINY),
    "audio": spectrogram(frames=16, bins=16, **TINY),
}


def modalities(*names, **reader):
    """Video and sound, or one of them."""
    made = {
        "video": lambda: joint.modality(MODELS["video"], random(0.5), video(), {"pixels": objective(pixels())}),
        "audio": lambda: joint.modality(
            MODELS["audio"], random(0.5), sound(FORM, **reader), {"log_mel": objective(values())}
        ),
    }
    return {name: made[name]() for name in names or made}


def heard(b=4, **more):
    """Clips with noise as their sound."""
    rng = np.random.default_rng(5)
    return batch_of(
        b,
        **{
            "audio": rng.integers(-9000, 9000, (b, SAMPLES)).astype(np.int16),
            "audio_valid": np.ones(b, bool),
            "audio_span": np.tile(np.array([0, SAMPLES], np.int32), (b, 1)),
            **more,
        },
    )
