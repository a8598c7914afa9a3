"""The BatchNorm term: a value by hand, a naive loop, and which layers of which teacher it sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainers import models
from trainers.errors import ConfigError
from trainers.methods import freeze
from trainers.synthesis.bn_statistics import BNStatistics, bn_statistics_loss


def test_value_by_hand() -> None:
    # Channel 0 holds 1 2 3 4: mean 2.5, biased variance 1.25; channel 1 holds zeros.
    # Variance part: |(1 - 1.25, 1 - 0)| = sqrt(1.0625); mean part: |(2 - 2.5, 0)| = 0.5.
    inputs = torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]], [[[3.0, 4.0]], [[0.0, 0.0]]]])
    loss = bn_statistics_loss(inputs, torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]))
    assert float(loss) == pytest.approx(math.sqrt(1.0625) + 0.5, abs=1e-6)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    x, mean, var = torch.randn(3, 4, 2, 2), torch.randn(4), torch.rand(4)
    squares_mean = squares_var = 0.0
    for c in range(4):
        values = [float(x[n, c, i, j]) for n in range(3) for i in range(2) for j in range(2)]
        m = sum(values) / len(values)
        squares_mean += (float(mean[c]) - m) ** 2
        squares_var += (float(var[c]) - sum((v - m) ** 2 for v in values) / len(values)) ** 2
    assert float(bn_statistics_loss(x, mean, var)) == pytest.approx(
        math.sqrt(squares_mean) + math.sqrt(squares_var), rel=1e-5
    )


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_either_memory_format_gives_the_same_term_and_gradient(offset: float) -> None:
    torch.manual_seed(0)
    x, mean, var = torch.randn(6, 4, 5, 3) + offset, torch.randn(4), torch.rand(4)
    terms, gradients = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.clone(memory_format=layout).requires_grad_()
        term = bn_statistics_loss(given, mean, var)
        term.backward()
        assert given.grad is not None
        terms.append(float(term))
        gradients.append(given.grad.contiguous())
    assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_is_zero_where_the_statistics_fit() -> None:
    x = torch.randn(8, 3, 4, 4)
    assert float(bn_statistics_loss(x, x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False))) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize(
    ("network", "layers", "channels"),
    [
        ("resnet34", 36, 8512), ("resnet18", 20, 4800), ("vgg11", 8, 2752),
        ("wrn_40_2", 37, 2704), ("wrn_40_1", 37, 1360), ("wrn_16_2", 13, 912),
    ],
)  # fmt: skip
def test_layers_of_the_papers_teachers(network: str, layers: int, channels: int) -> None:
    with torch.device("meta"):
        statistics = BNStatistics(models.build(network, classes=10))
    assert len(statistics.layers) == layers
    assert sum(layer.num_features for layer in statistics.layers) == channels


def teacher() -> nn.Sequential:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten()
    )
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var)  # type: ignore[arg-type]
    freeze(network)
    return network


def test_total_is_the_sum_over_layers_of_their_inputs() -> None:
    network, x = teacher(), torch.randn(4, 1, 6, 6)
    first = network[0](x)
    second = network[3](network[2](network[1](first)))
    expected = sum(
        float(bn_statistics_loss(inputs, network[i].running_mean, network[i].running_var))
        for i, inputs in ((1, first), (4, second))
    )
    statistics = BNStatistics(network)
    with statistics:
        network(x)
    assert float(statistics.total()) == pytest.approx(expected, rel=1e-6)
    with statistics:  # a second pass starts from nothing
        network(x)
    assert float(statistics.total()) == pytest.approx(expected, rel=1e-6)


def test_gradient_reaches_the_images_and_the_teacher_stays() -> None:
    network, x = teacher(), torch.randn(4, 1, 6, 6, requires_grad=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    statistics = BNStatistics(network)
    with statistics:
        network(x)
    statistics.total().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_nothing_is_collected_outside_the_block_also_after_a_fault() -> None:
    network = teacher()
    statistics = BNStatistics(network)
    with pytest.raises(RuntimeError), statistics:
        network(torch.randn(1, 2, 6, 6))
    statistics.terms = []
    network(torch.randn(4, 1, 6, 6))
    assert statistics.terms == []


def test_teacher_without_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="Sequential has none"):
        BNStatistics(nn.Sequential(nn.Linear(2, 2)))
