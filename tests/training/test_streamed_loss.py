"""Cross-entropy piece by piece is cross-entropy."""

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from minirec.training.tasks.streamed_loss import streamed_cross_entropy
from minirec.training.tasks.token_task import TokenTask, cross_entropy
from tests.bounds import assert_close, log_softmax_roundings

B, K, D, V, OLD = 3, 7, 5, 11, 8


def case():
    random = np.random.default_rng(0)
    weights = random.integers(0, 3, (B, K)).astype(np.float32)
    weights[:, 5:] = 0.0  # the last piece asks for nothing
    return (
        jnp.asarray(random.normal(size=(B, K, D)), jnp.float32),
        jnp.asarray(random.normal(size=(V, D)), jnp.float32),
        jnp.asarray(random.integers(0, V, (B, K)), jnp.int32),
        jnp.asarray(weights),
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("at_once", [2, 7, 100])
def test_loss_hits_and_gradients_are_those_of_all_logits_at_once(smoothing, at_once):
    hidden, head, targets, weights = case()

    def plain(hidden, head):
        logits = hidden @ head.T
        hits = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
        return cross_entropy(logits, targets, weights, label_smoothing=smoothing)[0], hits

    def streamed(hidden, head):
        parts = (head[:OLD], head[OLD:])
        return streamed_cross_entropy(
            hidden, parts, targets, weights, at_once=at_once, label_smoothing=smoothing
        )

    results = [
        jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(hidden, head)
        for loss in (plain, streamed)
    ]
    # Products over D, a softmax over V, smoothing's mean of V, and a sum over all places.
    roundings = D + log_softmax_roundings(V) + V + B * K
    ((loss, hits), gradients), ((other_loss, other_hits), other_gradients) = results
    assert hits == other_hits, "whole numbers"
    assert_close(other_loss, loss, roundings, scale=weights.sum() * jnp.abs(hidden @ head.T).max())
    # Of a row's logits the gradients add up to 2 weights at most, and a weight is at most 2. They
    # are multiplied with the head's rows, or with hidden states and added up over all places.
    scales = 4 * jnp.abs(head).max(), 4 * B * K * jnp.abs(hidden).max()
    for one, other, scale in zip(gradients, other_gradients, scales, strict=True):
        assert_close(other, one, roundings, scale)


def test_a_part_of_the_head_that_is_not_trained_gets_no_gradient_and_no_room():
    hidden, head, targets, weights = case()

    def loss(tail, hidden):
        return streamed_cross_entropy(hidden, (head[:OLD], tail), targets, weights, at_once=2)[0]

    def carried(jaxpr):
        """Shapes that the scans of a program carry from piece to piece."""
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                yield from (variable.aval.shape for variable in equation.outvars)
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from carried(inner)

    shapes = list(carried(jax.make_jaxpr(jax.grad(loss))(head[OLD:], hidden).jaxpr))
    assert (V - OLD, D) in shapes
    assert (OLD, D) not in shapes


def test_a_task_that_streams_has_the_loss_of_one_that_does_not():
    hidden, head, targets, weights = case()

    class Model:
        def __call__(self, tokens, positions, segment_ids, dropout_key):
            return hidden

        def logits(self, hidden):
            return hidden @ head.T

        def head_parts(self):
            return (head,)

    shown = {"targets": targets, "loss_mask": weights[:, ::-1]}
    batch = dict.fromkeys(("tokens", "positions", "segment_ids"), targets) | shown
    tasks = [TokenTask(lambda _: {}, logits_at_once=most) for most in (None, 6)]
    plain, streamed = (task.loss(Model(), batch, key=jax.random.key(0)) for task in tasks)
    roundings = D + log_softmax_roundings(V) + B * K
    jax.tree.map(lambda a, b: assert_close(b, a, roundings), plain, streamed)


def test_a_size_that_is_none_is_named():
    with pytest.raises(ValueError, match="logits_at_once=0"):
        TokenTask(lambda _: {}, logits_at_once=0)
