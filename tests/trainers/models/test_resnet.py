"""The ImageNet networks compute what torchvision's compute and take its weights files."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainers import _torchvision, checkpoint, models
from trainers.config import Upstream
from trainers.errors import TrialError
from trainers.train import load_weights

assert _torchvision.datasets  # that import lets the next one pass beside a torch without CUDA
from torchvision.models import resnet18, resnet34  # noqa: E402

THEIRS = {"resnet18_imagenet": resnet18, "resnet34_imagenet": resnet34}
CLASSES = 7  # the files have 1000; fewer make the test quicker


def theirs(name: str) -> nn.Module:
    """torchvision's network with weights and running statistics that tell every layer from every other."""
    torch.manual_seed(0)
    network = THEIRS[name](num_classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias):
                nn.init.uniform_(values, -0.2, 0.2)
            for values in (module.running_var, module.weight):
                nn.init.uniform_(values, 0.7, 1.3)
    return network.eval()


def imported(name: str, file: Path) -> models.Network:
    network = models.build(name, classes=CLASSES, size=64)
    load_weights(
        network,
        Upstream(weights=str(file), sha256=checkpoint.file_sha256(file), network=name),
        file.parent,
        file.parent,
    )
    return network.eval()


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", THEIRS)
def test_imported_file_gives_torchvisions_outputs(name: str, tmp_path: Path) -> None:
    expected, file = theirs(name), tmp_path / "weights.pth"
    torch.save(expected.state_dict(), file, _use_new_zipfile_serialization=False)  # as the older public files
    network = imported(name, file)
    with torch.inference_mode():
        assert expected(images()).abs().max() > 0.1
        torch.testing.assert_close(network(images()), expected(images()), atol=1e-5, rtol=1e-5)


def test_files_older_than_the_count_of_batches_are_taken(tmp_path: Path) -> None:
    state = {key: value for key, value in theirs("resnet18_imagenet").state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "weights.pth")
    network = imported("resnet18_imagenet", tmp_path / "weights.pth")
    assert torch.equal(network.classifier.weight, state["fc.weight"])
    assert torch.equal(network.stages[1][0].shortcut[1].running_var, state["layer2.0.downsample.1.running_var"])


def test_own_names_are_taken_as_well_also_of_a_copy_and_inside_other_modules() -> None:
    network = models.build("resnet18_imagenet", classes=CLASSES, seed=0)
    state = network.state_dict()
    for other in (models.build("resnet18_imagenet", classes=CLASSES, seed=1), copy.deepcopy(network)):
        nn.ModuleDict({"student": other}).load_state_dict({f"student.{key}": each for key, each in state.items()})
        assert torch.equal(other.stages[3][1].conv2.weight, network.stages[3][1].conv2.weight)
        assert list(other.state_dict()) == list(state)


def test_file_of_another_network_is_an_error(tmp_path: Path) -> None:
    torch.save(theirs("resnet18_imagenet").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(TrialError, match=r"does not hold weights of resnet34_imagenet: .*Missing"):
        imported("resnet34_imagenet", tmp_path / "weights.pth")


def test_other_resnets_take_their_own_names_only() -> None:
    with pytest.raises(RuntimeError, match="Unexpected key"):
        models.build("resnet18_tiny7", classes=CLASSES).load_state_dict(theirs("resnet18_imagenet").state_dict())
