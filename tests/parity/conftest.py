"""The goldens: numbers of the official PyTorch implementation, in the folder $VMAE_GOLDENS."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from recorded import FOLDER, rows, widths

from vmae_jax.masking.core import Masker
from vmae_jax.methods import classify, masked
from vmae_jax.models.variants import Model, vit
from vmae_jax.patches import Patch
from vmae_jax.targets.core import objective
from vmae_jax.targets.pixels import pixels
from vmae_jax.types import Method
from vmae_jax.weights.formats import torch_file
from vmae_jax.weights.layouts import videomae


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One run for each set in the folder, whatever their number; none at all is an error of collection."""
    for fixture in ("pretrain", "finetune"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, sets(fixture), indirect=True, scope="session")
    if "phases" in metafunc.fixturenames:
        metafunc.parametrize("phases", sets("running_cell_phases"), indirect=True, scope="session")


def sets(kind: str) -> list[str]:
    """Return the names of the sets of a kind; every file of a set must be there."""
    return sorted(path.stem for path in FOLDER.glob(f"{kind}_*.npz"))


@pytest.fixture(autouse=True)
def exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@dataclasses.dataclass
class Golden:
    """A set: the official numbers, our model of the same dims, and the official weights."""

    numbers: dict[str, np.ndarray]
    dims: dict
    model: Model
    facts: videomae.Facts
    state: dict[str, np.ndarray]

    def recorded(self, decoder: bool = True) -> tuple[Masker, Masker | None]:
        """The recorded masks, which `batch` brings along, as maskers: True is hidden, or dropped."""

        def masker(name: str) -> Masker:
            keep = int((~self.numbers[name][0, 0]).sum())
            return Masker(keep=lambda grid: keep, score=lambda keys, batch, grid: 1.0 - jnp.asarray(batch[name]))

        return masker("encoder_mask"), masker("decoder_mask") if decoder else None

    def method(self, decoder: bool = True) -> Method:
        encoder_mask, decoder_mask = self.recorded(decoder)
        return masked.build(self.model, encoder_mask, {"pixels": objective(pixels())}, decoder_mask)

    def masked(self, decoder: bool = True) -> masked.Masked:
        return masked.Masked(self.model, *self.recorded(decoder), {"pixels": objective(pixels())})

    def classifier(self) -> Method:
        return classify.build(self.model, classes=self.state["head.weight"].shape[0])

    def batch(self, step: int = 0) -> dict[str, np.ndarray]:
        b = self.numbers["video"].shape[0]
        masks = {
            k: self.numbers[k][step].astype(np.float32) for k in ("encoder_mask", "decoder_mask") if k in self.numbers
        }
        return masks | {"video": self.numbers["video"], **rows(b)}

    def params(self, method: Method):
        template = meta.unbox(jax.eval_shape(lambda: method.init(jax.random.key(0), self.batch())[0]))
        return videomae.from_official(self.state, self.facts, template)


def _golden(kind: str, name: str) -> Golden:
    dims = json.loads((FOLDER / f"pretrain_{name}.json").read_text())
    file = torch_file.read_pth(FOLDER / f"{kind}_{name}.pth")
    model = vit(
        frames=dims["all_frames"],
        resolution=dims["img_size"],
        **widths(dims),
        cosine_attention=dims["cos_attn"],
        layer_scale=dims["init_values"] or None,
        dtype="float32",
    )
    facts = videomae.Facts(
        patch=Patch(*model.patch),
        channels=3,
        heads=dims["encoder_num_heads"],
        decoder_heads=dims["decoder_num_heads"],
    )
    numbers = dict(np.load(FOLDER / f"{kind}_{name}.npz"))
    return Golden(numbers, dims, model, facts, dict(file.get("model", file.get("module"))))


@pytest.fixture(scope="session")
def pretrain(request: pytest.FixtureRequest) -> Golden:
    return _golden("pretrain", request.param.removeprefix("pretrain_"))


@pytest.fixture(scope="session")
def finetune(request: pytest.FixtureRequest) -> Golden:
    return _golden("finetune", request.param.removeprefix("finetune_"))


@pytest.fixture(scope="session")
def phases(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """The masks of every grid and ratio, packed bits."""
    return dict(np.load(FOLDER / f"{request.param}.npz"))


@pytest.fixture(scope="session")
def goldens() -> pathlib.Path:
    return FOLDER
