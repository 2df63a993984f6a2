"""A tiny CLIP with random weights, in the layout of transformers."""

import json

import numpy as np

from vmae_jax.weights.formats.tensors import write_safetensors

WIDTH, HIDDEN, PROJECTION, DEPTH, SIDE, PATCH = 32, 48, 16, 3, 4, 8
ABOUT = {
    "model_type": "clip_vision_model",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "projection_dim": PROJECTION,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": SIDE * PATCH,
    "patch_size": PATCH,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
TEXT = {
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 40,
    "projection_dim": PROJECTION,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 9,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 299,
}


def shapes():
    """The names and shapes that transformers 5.23 writes."""
    found = {
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": (SIDE**2 + 1, WIDTH),
        "visual_projection.weight": (PROJECTION, WIDTH),
    }
    found |= blocks("vision_model.encoder.layers.", WIDTH, HIDDEN, DEPTH)
    for name in ("pre_layrnorm", "post_layernorm"):
        found |= {f"vision_model.{name}.{leaf}": (WIDTH,) for leaf in ("weight", "bias")}
    return found


def state():
    rng = np.random.default_rng(0)
    return {name: np.float32(0.2 * rng.standard_normal(shape)) for name, shape in shapes().items()}


def blocks(prefix, width, hidden, depth):
    """The names and shapes of the layers of a tower."""
    linear = {f"self_attn.{letter}_proj": (width, width) for letter in ("q", "k", "v", "out")}
    found = {}
    for i in range(depth):
        for name, shape in (linear | {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}).items():
            found |= {f"{prefix}{i}.{name}.weight": shape, f"{prefix}{i}.{name}.bias": shape[:1]}
        for name in ("layer_norm1", "layer_norm2"):
            found |= {f"{prefix}{i}.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    return found


def text_state():
    """The tensors of a text tower."""
    width = TEXT["hidden_size"]
    found = blocks("text_model.encoder.layers.", width, TEXT["intermediate_size"], TEXT["num_hidden_layers"]) | {
        "text_model.embeddings.token_embedding.weight": (TEXT["vocab_size"], width),
        "text_model.embeddings.position_embedding.weight": (TEXT["max_position_embeddings"], width),
        "text_model.final_layer_norm.weight": (width,),
        "text_model.final_layer_norm.bias": (width,),
        "text_projection.weight": (PROJECTION, width),
    }
    rng = np.random.default_rng(7)
    return {name: np.float32(0.2 * rng.standard_normal(shape)) for name, shape in found.items()}


def write(folder, arrays, **about):
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", arrays, {})
    (folder / "config.json").write_text(json.dumps({**ABOUT, **about}))
    return folder
