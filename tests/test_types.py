"""Random streams: independent by name, the same for a row wherever it is."""

import jax
import numpy as np
import pytest

from vmae_jax.patches import gather
from vmae_jax.types import row_keys, stream


def data(key):
    return np.asarray(jax.random.key_data(key))


def test_streams_differ_by_name_and_not_by_order():
    key = jax.random.key(3)
    assert not (data(stream(key, "mask")) == data(stream(key, "drop_path"))).all()
    np.testing.assert_array_equal(data(stream(key, "mask")), data(stream(key, "mask")))


def test_rows_fold_each_their_own():
    seeds = np.arange(8, dtype=np.uint32).reshape(4, 2)
    together = stream(row_keys(seeds), "mask")
    for i in range(4):
        np.testing.assert_array_equal(data(together[i]), data(stream(row_keys(seeds[i : i + 1]), "mask"))[0])
    assert len({data(key).tobytes() for key in together}) == 4


def test_typed_catches_a_wrong_shape():
    with pytest.raises(Exception, match=r"Type-check error"):
        gather(jax.numpy.ones((2, 3, 4)), jax.numpy.ones((3, 1), jax.numpy.int32))
