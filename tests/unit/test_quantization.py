"""In training for int8, scaling keeps the results of the network. Training predicts the results of the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call

from pixtools.denoising import dncnn
from pixtools.denoising.engine import Blend
from pixtools.denoising.openvino_engine import OpenVINOEngine, has_vnni
from pixtools.denoising.torch_network import DnCNN
from pixtools.training import quantization

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def network() -> DnCNN:
    """A network whose channels have very different magnitudes, as after training."""
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
    return quantization.scaled(weights, quantization.measure_maxima(network, [picture]))


@torch.inference_mode()
def test_scaled_weights_have_the_same_result(network, picture, scaled):
    actual = functional_call(network, scaled, (picture,))

    torch.testing.assert_close(actual, network(picture), rtol=0, atol=1e-5 * actual.abs().max().item())


@torch.inference_mode()
def test_the_channels_that_int8_layers_read_have_the_same_maximum(picture, scaled):
    network = DnCNN()
    network.load_state_dict(scaled)

    for layer in quantization.LAYERS:
        maxima = network.model[: 2 * layer](picture).amax((0, 2, 3)) * quantization.CLIPPED_AT
        assert maxima.max() < 1.001
        # Some channels are always near 0. Scaling does not change these channels.
        assert (maxima > 0.999).float().mean() > 0.8


@torch.inference_mode()
@pytest.mark.skipif(not has_vnni(), reason="this CPU has no VNNI")
def test_training_predicts_what_the_engine_computes(network, picture, scaled):
    weights = dncnn.Weights({name: value.numpy() for name, value in scaled.items()}, quantization.LAYERS)
    tile = picture.permute(0, 2, 3, 1).contiguous().numpy()

    trained = quantization.predict(scaled, quantization.LAYERS, picture.bfloat16()).float()
    row = np.array([Blend().as_row()], np.float32)
    actual = torch.from_numpy(tile - OpenVINOEngine(weights, 1, "int8").denoise(tile, row).tiles)
    actual, exact = actual.permute(0, 3, 1, 2), functional_call(network, scaled, (picture,))

    # With these weights, clipping causes most of the error. Training and the engine clip values. The exact network does
    # not clip.
    assert 0 < rms(actual - trained) < 0.5 * rms(actual - exact)
    assert rms(actual - trained) < 0.01 * exact.std()


def rms(errors: torch.Tensor) -> float:
    return errors.square().mean().sqrt().item()


def test_the_gradient_passes_rounded_values_but_not_clipped_ones():
    values = torch.tensor([-3.0, 0.4, 17.6, 300.0], requires_grad=True)

    rounded = quantization.rounded(values)
    rounded.sum().backward()

    assert rounded.tolist() == [0, 0, 18, 255]
    assert values.grad.tolist() == [0, 1, 1, 0]


@torch.inference_mode()
def test_all_numbers_stay_finite_with_a_dead_channel_and_zero_kernels(network, picture):
    dead = {name: value.clone() for name, value in network.named_parameters()}
    dead["model.4.weight"].zero_()
    dead["model.4.bias"].zero_()
    dead["model.12.weight"][5].zero_()
    network = DnCNN()
    network.load_state_dict(dead)

    scaled = quantization.scaled(dead, quantization.measure_maxima(network, [picture]))

    assert all(value.isfinite().all() for value in scaled.values())
    assert quantization.predict(scaled, quantization.LAYERS, picture.bfloat16()).isfinite().all()
