"""Training for int8: the network stays the same, and is trained as the engine will run it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from pixtools.denoising import dncnn
from pixtools.denoising.openvino_engine import OpenVINOEngine, has_vnni
from pixtools.denoising.torch_network import DnCNN
from pixtools.training import quantization


@pytest.fixture(scope="module")
def network() -> DnCNN:
    """Channels of very different size, as training leaves them."""
    generator = torch.Generator().manual_seed(5)
    network = DnCNN()
    for parameter in network.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() == 4 else 0.01
        sizes = torch.rand(len(parameter), *[1] * (parameter.dim() - 1), generator=generator) + 0.2
        parameter.data.normal_(0, scale, generator=generator).mul_(sizes)
    return network


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.rand(1, 3, 48, 56, generator=torch.Generator().manual_seed(6))


@pytest.fixture(scope="module")
def scaled(network, picture) -> dict[str, torch.Tensor]:
    weights = {name: value.detach() for name, value in network.named_parameters()}
    return quantization.scaled(weights, quantization.tops(network, [picture]))


@torch.inference_mode()
def test_scaled_weights_are_the_same_network(network, picture, scaled):
    found = functional_call(network, scaled, (picture,))

    torch.testing.assert_close(found, network(picture), rtol=0, atol=1e-5 * found.abs().max().item())


@torch.inference_mode()
def test_the_channels_that_layers_in_int8_read_reach_the_same_height(picture, scaled):
    network = DnCNN()
    network.load_state_dict(scaled)

    for layer in quantization.LAYERS:
        heights = network.model[: 2 * layer](picture).amax((0, 2, 3)) * quantization.KEPT
        assert heights.max() < 1.001
        # Channels that are next to nothing stay so.
        assert (heights > 0.999).float().mean() > 0.8


@torch.inference_mode()
@pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI")
def test_what_is_trained_is_what_the_engine_runs(network, picture, scaled):
    weights = dncnn.Weights({name: value.numpy() for name, value in scaled.items()}, quantization.LAYERS)
    tile = picture.permute(0, 2, 3, 1).contiguous().numpy()

    trained = quantization.predict(scaled, quantization.LAYERS, picture.bfloat16()).float()
    found = torch.from_numpy(tile - OpenVINOEngine(weights, 1, "int8").denoise(tile, np.ones(1, np.float32)))
    found, exact = found.permute(0, 3, 1, 2), functional_call(network, scaled, (picture,))

    # With such weights clipping tells most: both do it alike, the network that is meant does not.
    assert 0 < rms(found - trained) < 0.5 * rms(found - exact)
    assert rms(found - trained) < 0.01 * exact.std()


def rms(errors: torch.Tensor) -> float:
    return errors.square().mean().sqrt().item()


def test_the_gradient_passes_the_rounding_and_not_the_clipping():
    given = torch.tensor([-3.0, 0.4, 17.6, 300.0], requires_grad=True)

    found = quantization.rounded(given)
    found.sum().backward()

    assert found.tolist() == [0, 0, 18, 255]
    assert given.grad.tolist() == [0, 1, 1, 0]


@torch.inference_mode()
def test_a_channel_that_is_dead_and_kernels_that_are_zero_leave_all_numbers_finite(network, picture):
    dead = {name: value.clone() for name, value in network.named_parameters()}
    dead["model.4.weight"].zero_()
    dead["model.4.bias"].zero_()
    dead["model.12.weight"][5].zero_()
    network = DnCNN()
    network.load_state_dict(dead)

    scaled = quantization.scaled(dead, quantization.tops(network, [picture]))

    assert all(value.isfinite().all() for value in scaled.values())
    assert quantization.predict(scaled, quantization.LAYERS, picture.bfloat16()).isfinite().all()
