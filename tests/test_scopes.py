"""Names of towers and parts, found again in traced and compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from vmae_jax import scopes
from vmae_jax.scopes import part, tower


def test_the_outer_tower_and_the_inner_part_count():
    assert scopes.names("jit(f)/transpose(jvp(tower=teacher))/tower=encoder/part=scores/part=qkv/dot") == (
        "teacher",
        "qkv",
    )
    assert scopes.names("jit(f)/tower=encoder/add") == ("encoder", None)
    assert scopes.names("jit(f)/encoder/mlp/add") == (None, None)


@pytest.mark.usefixtures("compiled_now")
def test_they_are_in_the_compiled_program_of_a_gradient_within_a_loop():
    @tower("encoder")
    def network(w, x):
        with part("mlp"):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    text = jax.jit(jax.grad(network)).lower(jnp.ones((3, 4, 4)), jnp.ones((2, 4))).compile().as_text()
    products = [line for line in text.splitlines() if "dot_general" in line and "op_name=" in line]
    assert products
    assert {scopes.names(line) for line in products} == {("encoder", "mlp")}
    assert any("transpose(" in line for line in products)


@pytest.mark.parametrize("make", [tower, part])
def test_a_name_is_an_identifier(make):
    with pytest.raises(ValueError, match="is an identifier such as 'encoder', got 'two words'"):
        make("two words")
