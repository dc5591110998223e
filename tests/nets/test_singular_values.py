"""Trained singular values: the layer's formula, what it leaves alone, and the merged weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.nets.singular_values import is_spectral, shifted, spectra_of, spectrum_of, train_singular_values

CPU = torch.device("cpu")
LAYERS = {
    "square": (nn.Linear(12, 12), (3, 12)),
    "wide": (nn.Linear(20, 8, bias=False), (3, 20)),
    "tall": (nn.Linear(8, 32), (3, 8)),
    "convolution": (nn.Conv2d(6, 10, 3, 2, 1), (2, 6, 8, 8)),
    "tall 1 x 1": (nn.Conv2d(6, 10, 1), (2, 6, 8, 8)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_computes_with_the_shifted_values(kind: str) -> None:
    """Against torch's own decomposition: U diag(relu(s + d)) V', and its gradients."""
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    weight, x = layer.weight.detach().clone(), torch.randn(shape)
    before = layer(x).detach()
    net = nn.ModuleDict({"layer": layer})
    trained = train_singular_values(net, spectra_of(net, CPU))["layer"]
    assert torch.equal(layer(x), before) and not weight.ne(layer.weight).any()

    u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    d = torch.linspace(-1.5 * float(s.min()), 0.3, len(s)).requires_grad_()  # some values are cut off at 0
    whole = ((u * (s + d).relu()) @ vh).reshape(weight.shape)
    if isinstance(layer, nn.Linear):
        expected = functional.linear(x, whole, layer.bias)
    else:
        expected = functional.conv2d(x, whole, layer.bias, layer.stride, layer.padding)
    expected.square().sum().backward()
    place = (trained.spectrum.values[:, None] - s).abs().argmin(1)  # ours are in ascending order
    with torch.no_grad():
        trained.shift.copy_(d[place])
    output = layer(x)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-4, atol=1e-4)
    output.square().sum().backward()
    assert d.grad is not None and trained.shift.grad is not None and layer.weight.grad is None
    torch.testing.assert_close(trained.shift.grad, d.grad[place], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        shifted(weight, trained.spectrum, d[place].detach()), whole.detach(), rtol=1e-4, atol=1e-5
    )
    trained.off = True
    assert torch.equal(layer(x), before)


def test_values_that_are_rounding_stay() -> None:
    weight = torch.diag(torch.tensor([2.0, 1.0, 1e-5, 0.0]))
    spectrum = spectrum_of(weight, CPU)
    assert spectrum.changes(torch.zeros(4)).abs().max() == 0
    moved = shifted(weight, spectrum, torch.full((4,), 0.5))
    assert moved.diag().tolist() == pytest.approx([2.5, 1.5, 1e-5, 0.0])
    assert spectrum_of(torch.zeros(3, 3), CPU).changes(torch.ones(3)).tolist() == [0, 0, 0]


def test_the_first_layer_of_a_net_stays() -> None:
    assert not is_spectral((320, 4, 3, 3)) and is_spectral((320, 40, 3, 3)) and is_spectral((320, 4, 1, 1))
