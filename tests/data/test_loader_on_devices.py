"""A loader's batches, put on the devices ahead of the training, are the batches that the host reads."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vmae_jax.data.opened import open_loader
from vmae_jax.train.device import host_rows, prefetch_to_device


def test_with_a_real_loader(video_folder):
    from test_data_pipeline import make

    loader = make(video_folder)
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    where = NamedSharding(mesh, PartitionSpec("data"))
    rows = host_rows(where, loader.clips_per_step)
    opened = open_loader(loader)
    with opened.batches(rows=rows, seed=3) as host:
        truth = [next(host) for _ in range(3)]
    with prefetch_to_device(opened.batches(rows=rows, seed=3), where, clips=8) as ahead:
        for batch in truth:
            for name, array in next(ahead).items():
                np.testing.assert_array_equal(array, batch[name])
        assert ahead.position == 12
