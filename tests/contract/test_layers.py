"""What every layer keeps to, whatever its program: the product of the table with each promise."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from tests.registry import LAYERS, rows

from bilevel.adjoints import GradientKind
from bilevel.errors import UnsupportedDerivative
from bilevel.status import Status

EVERY = pytest.mark.parametrize("row", rows(LAYERS))
MAPPED = pytest.mark.parametrize("row", rows(tuple(row for row in LAYERS if row.maps)))
# The error of a central difference with this step: about 1e-16 / 1e-6.
CLOSE = {"eps": 1e-6, "atol": 1e-7, "rtol": 1e-6}


@cache
def case(row):
    return row.build()


def weighted(outputs):
    """Return a scalar in which every entry of every output has a weight of its own."""
    return sum(
        (torch.cos(torch.arange(one.numel())).view(one.shape) * one).sum() for one in outputs
    )


def gradients(layer, inputs):
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    outputs = layer(*leaves)
    return outputs, torch.autograd.grad(weighted(outputs), leaves)


def same(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def close(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@EVERY
def test_answers_and_multipliers_are_those_of_cvxpy(row):
    inputs = case(row).inputs(3)
    answer = case(row).layer.solve(*inputs)
    assert answer.status == (Status.OPTIMAL,) * 3
    assert answer.report.kind == (GradientKind.CLASSICAL,) * 3
    assert answer.report.residual.max() < 1e-12
    assert answer.report.adjoint_residual.max() < 1e-12
    assert (answer.report.margin > 1e-4).all()
    for i in range(3):
        expected = case(row).by_cvxpy(*(one[i] for one in inputs))
        for own, other in zip(answer.values, expected, strict=True):
            assert own[i].shape == other.shape
            np.testing.assert_allclose(own[i].numpy(), other, rtol=0, atol=row.tolerance)


@EVERY
def test_first_derivatives(row):
    inputs = [one.requires_grad_() for one in case(row).inputs(1)]
    assert torch.autograd.gradcheck(case(row).layer, inputs, **CLOSE)


@EVERY
def test_second_derivatives_are_right_or_refused(row):
    inputs = [one.requires_grad_() for one in case(row).inputs(1)]
    if row.order == 1:
        first = torch.autograd.grad(
            weighted(case(row).layer(*inputs)), inputs[0], create_graph=True
        )[0]
        with pytest.raises(UnsupportedDerivative, match=r"second derivative of .* cones"):
            first.sum().backward()
    else:
        assert torch.autograd.gradgradcheck(case(row).layer, inputs, **{**CLOSE, "atol": 1e-6})


@EVERY
def test_a_batch_is_its_instances_one_by_one(row):
    layer, inputs = case(row).layer, case(row).inputs(3)
    outputs = layer(*inputs)
    for i in range(3):
        alone = layer(*(one[i] for one in inputs))
        assert [one.shape for one in alone] == [one.shape[1:] for one in outputs]
        equal = same if row.bitwise else close
        equal(alone, [one[i] for one in outputs])
        equal(layer(*(one[i : i + 1] for one in inputs)), [one[i : i + 1] for one in outputs])


@EVERY
def test_gradients_of_a_batch_are_those_of_its_instances(row):
    layer, inputs = case(row).layer, case(row).inputs(3)
    leaves = [one.clone().requires_grad_() for one in inputs]
    total = sum(weighted(one[i] for one in layer(*leaves)) for i in range(3))
    found = torch.autograd.grad(total, leaves)
    for i in range(3):
        _, alone = gradients(layer, [one[i] for one in inputs])
        close(alone, [one[i] for one in found])


@EVERY
def test_an_input_without_batch_is_shared_and_its_gradient_summed(row):
    layer, one = case(row).layer, [x[0] for x in case(row).inputs(1)]
    # Three instances near each other, so that all mixtures of them have an answer.
    size = 1 + 0.003 * torch.arange(3.0, dtype=torch.float64)
    inputs = [size.view(3, *(1,) * x.ndim) * x for x in one]
    for shared in range(len(inputs)):
        mixed = [x[0] if k == shared and len(inputs) > 1 else x for k, x in enumerate(inputs)]
        whole = [x.expand_as(y).contiguous() for x, y in zip(mixed, inputs, strict=True)]
        outputs, found = gradients(layer, mixed)
        repeated, expected = gradients(layer, whole)
        (same if row.bitwise else close)(outputs, repeated)
        sums = [y if x.ndim == y.ndim else y.sum(0) for x, y in zip(found, expected, strict=True)]
        close(found, sums)


@EVERY
def test_single_precision_in_single_precision_out(row):
    layer, inputs = case(row).layer, [one.float() for one in case(row).inputs(2)]
    outputs, found = gradients(layer, inputs)
    assert {one.dtype for one in (*outputs, *found)} == {torch.float32}
    # Solved in double precision: what is lost is the rounding of inputs and results alone.
    exact = layer(*(one.double() for one in inputs))
    same(outputs, [one.float() for one in exact])
    mixed = [inputs[0].double(), *inputs[1:]]
    assert {one.dtype for one in layer(*mixed)} == {torch.float64}


@EVERY
def test_threads_share_a_layer_and_get_the_same_bits(row):
    layer = case(row).layer
    batches = [case(row).inputs(2, seed) for seed in range(4)]
    alone = [gradients(layer, inputs) for inputs in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda inputs: gradients(layer, inputs), batches * 2))
    for (outputs, found), (others, theirs) in zip(together, alone * 2, strict=True):
        same(outputs, others)
        same(found, theirs)


@EVERY
def test_same_answer_twice_and_arguments_are_not_changed(row):
    layer, inputs = case(row).layer, case(row).inputs(3)
    kept = [one.clone() for one in inputs]
    first, slopes = gradients(layer, inputs)
    gradients(layer, case(row).inputs(3, seed=1))
    second, others = gradients(layer, inputs)
    same(first, second)
    same(slopes, others)
    same(inputs, kept)


@EVERY
def test_results_are_the_callers_own(row):
    layer, inputs = case(row).layer, case(row).inputs(2)
    kept = [one.clone() for one in inputs]
    with torch.no_grad():
        outputs = layer(*inputs)
        expected = [one.clone() for one in outputs]
        for one in outputs:
            one.fill_(7.0)
        same(inputs, kept)
        same(layer(*inputs), expected)


@EVERY
def test_starting_warm_changes_no_answer(row):
    layer, inputs = row.build().layer, case(row).inputs(3)
    cold = layer(*inputs)
    layer(*case(row).inputs(3, seed=1), warm_start=True)
    for _ in range(2):
        close(layer(*inputs, warm_start=True), cold)


@EVERY
def test_nothing_is_recorded_where_nothing_is_wanted(row):
    inputs = [one.requires_grad_() for one in case(row).inputs(2)]
    with torch.no_grad():
        outputs = case(row).layer(*inputs)
    assert not any(one.requires_grad for one in outputs)
    assert not any(one.requires_grad for one in case(row).layer(*(i.detach() for i in inputs)))
    same(outputs, [one.detach() for one in case(row).layer(*inputs)])


@EVERY
def test_calling_is_the_values_of_solving(row):
    layer, inputs = case(row).layer, case(row).inputs(2)
    outputs = layer(*inputs)
    assert isinstance(outputs, tuple)
    same(outputs, layer.solve(*inputs).values)
    text = layer.solve(*inputs).report.summary()
    assert text.startswith("2 of 2 gradients are derivatives")


@EVERY
def test_vmap_is_the_batch(row):
    if not row.maps:
        with pytest.raises(UnsupportedDerivative, match=r"torch\.func cannot map"):
            torch.func.vmap(case(row).layer)(*case(row).inputs(2))
        return
    layer, inputs = case(row).layer, case(row).inputs(3)
    same(torch.func.vmap(layer)(*inputs), layer(*inputs))
    slopes = torch.func.vmap(torch.func.grad(lambda *one: weighted(layer(*one))))(*inputs)
    for i in range(3):
        close([slopes[i]], gradients(layer, [one[i] for one in inputs])[1][:1])


@MAPPED
def test_jacrev_is_the_jacobian(row):
    layer, inputs = case(row).layer, [one[0] for one in case(row).inputs(1)]
    found = torch.func.jacrev(layer, argnums=tuple(range(len(inputs))))(*inputs)
    expected = torch.autograd.functional.jacobian(layer, tuple(inputs))
    for own, other in zip(found, expected, strict=True):
        close(own, other)


@MAPPED
def test_hessians_by_torch_func_are_right_or_refused(row):
    layer, inputs = case(row).layer, [one[0] for one in case(row).inputs(1)]
    hessian = torch.func.jacrev(torch.func.grad(lambda *one: weighted(layer(*one)).square()))
    if row.order == 1:
        with pytest.raises(UnsupportedDerivative, match=r"second derivative of .* cones"):
            hessian(*inputs)
        return
    leaf = inputs[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        weighted(layer(leaf, *inputs[1:])).square(), leaf, create_graph=True
    )
    second = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in slope.flatten()]
    close([hessian(*inputs)], [torch.stack(second).view(leaf.shape * 2)])


@EVERY
# PyTorch's forward mode uses its own deprecated compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_forward_mode_is_refused_and_the_way_out_named(row):
    layer, inputs = case(row).layer, [one[0] for one in case(row).inputs(1)]
    with pytest.raises(UnsupportedDerivative, match="jacrev"):
        torch.func.jacfwd(layer)(*inputs)


@EVERY
def test_printing_names_parameters_and_adjoint(row):
    text = repr(case(row).layer)
    assert text.startswith("FollowerLayer(parameters=[")
    assert "degenerate='lstsq'" in text
