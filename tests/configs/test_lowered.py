"""What training steps become on a TPU, traced for one that is not here: fused attention, half-precision products."""

import dataclasses
import math

import jax
import pytest
from flax.core import meta
from jax.extend import core

from vmae_jax import scopes
from vmae_jax.commands.config import load_config
from vmae_jax.commands.experiment import experiment
from vmae_jax.spec import calls
from vmae_jax.types import Carried

DEVICE = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
MESH = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=DEVICE)
# Every method, at the width of a published size and two blocks deep; SiamMAE's decoder without dropout, which no kernel
# has (`docs/siammae_cropmae.md`).
PRETRAINING = {
    "videomae_v2:B": [],
    "videomae_v2:g": [],
    "mae:L": [],
    "mae_st:L": [],
    "hiera:B": [],
    "hvm1:224": [],
    "adamae": [],
    "motionmae": [],
    "mgm": [],
    "mgmae": [],
    "mme": [],
    "tgm": [],
    "siammae:S16": [("method.dropout", "0.0")],
    "cropmae:B16": [("method.dropout", "0.0")],
    "rvm:B": [("method.core_depth", "2")],
    "siammcvae": [],
    "diffmae:B": [],
    "diffmae:B,video": [],
    "vjepa:L": [],
    "vjepa2:g": [],
    "vjepa2_1:L": [],
    "salt:L": [],
    "internvideo_next:B": [],
    "levjepa:B": [],
    "contrast:simclr,B": [],
    "contrast:byol,B": [],
    "contrast:moco,B": [("method.parts.moco.queue", "256")],
    "contrast:moco_v3,B": [],
    "contrast:teg,B": [],
    "contrast:ascnet,B": [],
    "contrast:const_cl,B": [],
    "contrast:controlled,B": [],
    "sigma:B,k400": [],
    "mvd:B": [],
    "umt:B": [("method.layers", "2")],
    "ego_only:L,mq": [],
    "finetune:B,k400,v2": [],
    "distill:B": [],
    "cdfslv:adapt": [],
    "ttt:B": [],
    "masdt:finetune": [],
    "marlin:B": [],
    "av_mae:L,audioset": [],
    "mavil:B,audioset": [],
    "mavil:B,audioset,student": [],
    "vic_mae:B": [],
    "crossvideomae": [],
    "mbt:audioset_mini": [("method.fuse.start", "1")],
}
GUIDES = ("flow",)  # RAFT is in float32
ROWS = 64
SHOWN = ("videomae_v2:B", "mae:L", "vjepa2:g", "av_mae:L,audioset")  # in the default suite


def traced(target, overrides):
    """The gradient of a config's loss, in half precision, as traced for a TPU."""
    stem, _, arguments = target.partition(":")
    config = load_config(f"configs/{stem}.py" + f":{arguments}" * bool(arguments), overrides)
    for node in calls(config):
        if node.call in ("models.variants.vit", "models.spectrogram"):
            node.dtype, node.depth, node.decoder_depth = "bfloat16", 2, 2
            if node.get("levels"):
                node.levels = [0, 1]
        elif node.call == "models.hiera_sizes.hiera":
            node.dtype, node.decoder_depth = "bfloat16", 2
        elif node.call == "models.text.transformer":
            node.dtype, node.depth = "bfloat16", 2
        elif "path" in node and node.call.startswith(("data.sources.", "data.streams.", "train.init_from.")):
            node.path = "videos"
        elif "directory" in node:
            node.directory = "videos"
    made = experiment(config, trains=True)
    method = made.method
    rows = ROWS // method.views * method.views  # whole videos
    spec = {name: jax.ShapeDtypeStruct((rows, *one.shape[1:]), one.dtype) for name, one in made.batch_spec.items()}
    params, extra = meta.unbox(jax.eval_shape(method.init, jax.random.key(0), spec))
    frozen = method.frozen and meta.unbox(jax.eval_shape(method.frozen, jax.random.key(0), spec))
    carried = Carried(extra, frozen, params if method.averaged else None)

    def loss(params, batch, carried):
        context = dataclasses.replace(carried.context(jax.random.key(0)), train=True)
        terms = method.total_loss(params, batch, context).terms
        return sum(term.weight * term.total / term.count for term in terms.values())

    with jax.sharding.use_abstract_mesh(MESH):
        return jax.make_jaxpr(jax.grad(loss))(params, spec, carried).jaxpr


def equations(jaxpr, times=1):
    """Every operation with how often it runs; those inside of a kernel are not looked at, nor those of a guide."""
    for equation in jaxpr.eqns:
        if scopes.names(str(equation.source_info.name_stack))[0] in GUIDES:
            continue
        yield equation, times
        if equation.primitive.name != "pallas_call":
            inner = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
            for value in equation.params.values():
                for one in value if isinstance(value, tuple | list) else [value]:
                    if isinstance(one, core.ClosedJaxpr | core.Jaxpr):
                        yield from equations(getattr(one, "jaxpr", one), inner)


def work(equation):
    """The multiplications of a product of matrices."""
    ((left, _), (rows, _)) = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in left), rows


@pytest.mark.parametrize(
    "target", [pytest.param(one, marks=[] if one in SHOWN else pytest.mark.slow) for one in PRETRAINING]
)
def test_attention_is_fused_and_products_are_in_half_precision(target):
    kernels, weights, products = 0, [], {"half": 0.0, "single": 0.0}
    for equation, times in equations(traced(target, PRETRAINING[target])):
        if equation.primitive.name == "pallas_call":
            kernels += times
        elif equation.primitive.name == "dot_general":
            flops, _ = work(equation)
            half = all(str(one.aval.dtype) == "bfloat16" for one in equation.invars)
            products["half" if half else "single"] += times * flops
        elif equation.primitive.name == "exp":  # of a softmax over the weights of every head
            shape = equation.outvars[0].aval.shape
            weights += [shape] if len(shape) == 4 and min(shape[2:]) > 1 else []
    assert kernels > 0
    assert not weights, f"attention weights of {weights} exist as a whole"
    assert products["single"] < 0.01 * products["half"]
