import pytest
import torch

from rig.compression import networks
from rig.errors import BadInputError


@pytest.mark.parametrize(("name", "params"), [("resnet20", 272_186), ("vgg16", 14_722_890), ("mobilenetv2", 2_236_106)])
def test_networks_have_the_published_size_and_ten_logits(name, params):
    net = networks.build(name).eval()
    # ResNet-20 of He et al. has 0.27 M parameters; this one adds two projections.
    assert sum(p.numel() for p in net.parameters()) == params
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_widths_reach_the_layers_and_zero_removes_a_block():
    net = networks.build("resnet20", widths={"layer1.1.conv1": 0, "layer2.1.conv1": 5, "layer3.2.conv1": 0}).eval()
    assert net.layer2[1].conv1.out_channels == 5
    assert net.layer1[1].removed
    assert net.layer3[2].removed
    assert not any(name.startswith("layer1.1.") for name, _ in net.named_parameters())
    assert net(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_a_removed_projection_block_keeps_its_shortcut():
    net = networks.build("resnet20", widths={"layer2.0.conv1": 0}).eval()
    assert net(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert "layer2.0.shortcut.0.weight" in net.state_dict()


def test_an_inverted_residual_block_goes_with_width_zero():
    net = networks.build("mobilenetv2", widths={"blocks.2.expand": 0, "blocks.3.expand": 50}).eval()
    assert net.blocks[2].removed
    assert net.blocks[3].depthwise.groups == 50
    assert net(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_tied_widths_must_agree():
    with pytest.raises(BadInputError, match="tied by an addition"):
        networks.build("resnet20", widths={"conv1": 12, "layer1.0.conv2": 16})


@pytest.mark.parametrize("name", ["resnet21", "alexnet", "resnet2"])
def test_unknown_networks_are_named(name):
    with pytest.raises(BadInputError, match=name):
        networks.build(name)


def test_densenet_bc_has_the_published_size():
    # Huang et al., CVPR 2017: DenseNet-BC of 100 layers and growth 12 has 0.8 M parameters on colour images.
    assert sum(p.numel() for p in networks.build("densenet100", channels=3).parameters()) == 769_162
    assert networks.build("densenet22-0.5").eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_widths_reach_the_layers_of_a_densenet():
    net = networks.build("densenet22", widths={"block1.1.conv2": 5, "transition1.conv": 9}).eval()
    assert net.block1[2].bn1.num_features == 24 + 12 + 5
    assert net.block2[0].conv1.in_channels == 9
    assert net(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
