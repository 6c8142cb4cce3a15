import copy

import pytest
import torch
from pytorchvideo.models.resnet import ResBlock, ResStage, create_resnet
from samples import randomize, resnet3d
from torch import nn

from video_gn.errors import InputError
from video_gn.models.architectures import ARCHS, DEPTHS
from video_gn.models.blocks import Conv3d, WindowPool
from video_gn.models.norm import NORMS, make_norm


@pytest.mark.parametrize("name", NORMS)
def test_r50_has_28_04_million_parameters(name):
    with torch.device("meta"):
        net = resnet3d(400, make_norm(name))
    gates = sum(p.numel() for key, p in net.named_parameters() if key.endswith(".v"))  # evonorm_s0's own
    assert round((sum(p.numel() for p in net.parameters()) - gates) / 1e6, 2) == 28.04


@pytest.mark.parametrize("num_frames", [32, 64])
def test_stage_sizes_are_the_papers(num_frames):
    t = num_frames // 4
    expected = [
        (64, t, 56, 56), (256, t, 56, 56), (256, t // 2, 56, 56), (512, t // 2, 28, 28),
        (1024, t // 2, 14, 14), (2048, t // 2, 7, 7), (400, 1, 1, 1),
    ]  # fmt: skip
    with torch.device("meta"):
        net = resnet3d(400, make_norm("gn"))
        x = torch.empty(1, 3, num_frames, 224, 224)
        assert net.blocks[0].conv(x).shape == (1, 64, num_frames // 2, 112, 112)
        sizes = []
        for block in net.blocks:
            x = block(x)
            sizes.append(tuple(x.shape[1:]))
    assert sizes == expected


def test_depths_and_inflated_blocks():
    with torch.device("meta"):
        for depth, blocks in DEPTHS.items():
            net = resnet3d(2, make_norm("gn"), depth=depth)
            stages = [block for block in net.blocks if isinstance(block, ResStage)]
            assert tuple(len(stage.res_blocks) for stage in stages) == blocks
    inflated = [
        [i for i, b in enumerate(stage.res_blocks) if b.branch2.conv_a.kernel_size == (3, 1, 1)]
        for stage in (b for b in resnet3d(2, make_norm("gn")).blocks if isinstance(b, ResStage))
    ]
    assert inflated == [[0, 1, 2], [0, 2], [0, 2, 4], [1]]


@pytest.mark.parametrize("name", ["bn", "gn"])
def test_same_logits_as_pytorchvideos_builder(name):
    """The oracle is `create_resnet`, set to the papers' arch, with the same weights under the same names."""
    norm = make_norm(name)
    reference = create_resnet(
        model_num_class=7,
        norm=lambda num_features, eps, momentum: norm(num_features),
        stem_conv_kernel_size=(5, 7, 7),
        stem_conv_stride=(2, 2, 2),
        stem_pool=nn.MaxPool3d,
        stem_pool_kernel_size=(3, 3, 3),
        stem_pool_stride=(2, 2, 2),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=(
            ((3, 1, 1),) * 3,
            ((3, 1, 1), (1, 1, 1)) * 2,
            ((3, 1, 1), (1, 1, 1)) * 3,
            ((1, 1, 1), (3, 1, 1), (1, 1, 1)),
        ),
        head_pool_kernel_size=(2, 2, 2),  # what is left of 16 x 64 x 64
    )
    net = randomize(resnet3d(7, norm, crop_size=64))
    assert list(reference.state_dict()) == list(net.state_dict())
    reference.load_state_dict(net.state_dict())
    clips = torch.randn(2, 3, 16, 64, 64)
    with torch.no_grad():
        # On one thread, thin convolutions are by another kernel.
        torch.testing.assert_close(net(clips).flatten(1), reference.eval()(clips), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", NORMS)
def test_every_block_is_its_shortcut_at_first(name):
    net = resnet3d(3, make_norm(name, num_groups=4), depth=14, width=8).train()
    blocks = [module for module in net.modules() if isinstance(module, ResBlock)]
    assert len(blocks) == 4
    for block in blocks:
        x = torch.rand(2, block.branch2.conv_a.in_channels, 4, 6, 6)
        fresh = copy.deepcopy(block)  # the running statistics that the shortcut moves are part of brn's output
        shortcut = block.branch1_norm(block.branch1_conv(x)) if block.branch1_conv is not None else x
        torch.testing.assert_close(fresh(x), shortcut.relu(), rtol=0, atol=0)
        assert not block.branch2.norm_c.weight.any()


@pytest.mark.parametrize("name", NORMS)
def test_zero_init_can_be_turned_off_for_every_norm(name):
    net = resnet3d(3, make_norm(name, num_groups=4), depth=14, width=8, zero_init_gamma=False)
    assert all((m.branch2.norm_c.weight == 1).all() for m in net.modules() if isinstance(m, ResBlock))


def test_no_batch_norm_under_gn():
    net = resnet3d(3, make_norm("gn"))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    assert not any("running" in name for name in net.state_dict())


def test_initialisation():
    net = resnet3d(400, make_norm("bn"), depth=14)
    conv = net.blocks[1].res_blocks[0].branch2.conv_b.weight  # fan out 64 * 9
    assert conv.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert net.blocks[-1].proj.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not net.blocks[-1].proj.bias.any()
    assert all(conv.bias is None for conv in net.modules() if isinstance(conv, nn.Conv3d))


def test_fully_convolutional_over_larger_frames():
    """On larger frames the head slides: each position is the linear layer of one window's average."""
    net = randomize(resnet3d(5, make_norm("gn"), depth=14, crop_size=64))
    clips = torch.randn(1, 3, 10, 96, 128)
    with torch.no_grad():
        *trunk, head = net.blocks
        features = clips
        for block in trunk:
            features = block(features)
        assert features.shape[3:] == (3, 4)
        logits = net(clips)
        assert logits.shape == (1, 5, 1, 2, 3)
        window = features[0, :, :, 1:3, 2:4].mean((1, 2, 3))
        torch.testing.assert_close(logits[0, :, 0, 1, 2], head.proj(window), rtol=1e-4, atol=1e-5)


def test_window_is_clipped_to_what_is_there():
    x = torch.randn(2, 3, 4, 2, 5)
    torch.testing.assert_close(WindowPool(7)(x), x.mean((2, 3, 4), keepdim=True))


@pytest.mark.parametrize("arch", ARCHS)
def test_shortest_clip(arch):
    least = ARCHS[arch].min_frames
    with torch.device("meta"):
        net = resnet3d(2, make_norm("gn"), depth=11, arch=arch)
        assert net(torch.empty(1, 3, least, 64, 64)).shape[:3] == (1, 2, 1)
        with pytest.raises(RuntimeError):
            net(torch.empty(1, 3, least - 1, 64, 64))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_gradients_in_bfloat16(arch, times):
    """Each convolution's near float32's, for clips from the shortest on: with few positions PyTorch's can be wrong."""
    torch.manual_seed(0)
    frames = times * ARCHS[arch].min_frames
    net = randomize(resnet3d(5, make_norm("gn", num_groups=4), 14, 8, arch, 32, dropout=0)).train()
    seen = []

    def keep(conv, inputs, output):
        at = {"conv": conv, "x": inputs[0].detach().float()}
        output.register_hook(lambda gradient: at.update(gradient=gradient.float()))
        seen.append(at)

    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(keep)
    freed = [torch.full((int(size),), float("nan")) for size in (1e3, 1e4, 1e5)]  # memory that is read, not written
    del freed
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(2, 3, frames, 32, 32)).flatten(1)
    nn.functional.cross_entropy(logits.float(), torch.tensor([1, 3])).backward()
    assert len(seen) == 17
    for at in seen:
        conv = at["conv"]
        right = torch.nn.grad.conv3d_weight(at["x"], conv.weight.shape, at["gradient"], conv.stride, conv.padding)
        assert (conv.weight.grad - right).norm() <= 0.02 * right.norm(), conv


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "border"),
    [(2, 3, 1, True), (3, 3, 1, False), (2, 3, 2, True), (4, 5, 2, True), (5, 5, 2, False), (1, 1, 2, False)],
)
def test_positions_that_padding_does_not_reach(size, kernel, stride, border):
    conv = Conv3d(1, 1, (kernel, 1, 1), (stride, 1, 1), (kernel // 2, 0, 0))
    begins = [i * stride - kernel // 2 for i in range(conv(torch.zeros(1, 1, size, 1, 1)).shape[2])]
    assert all(begin < 0 or begin + kernel > size for begin in begins) == border
    assert conv._is_all_border((size, 1, 1)) == border


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 18}, "one of: 11, 14, 50, 101"),
        ({"arch": "x"}, "one of: i3d, "),
        ({"dropout": 1.0}, "below, 1"),
        ({"norm": nn.Identity}, "layer res2.0: its norm has no gamma"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(InputError, match=words):
        resnet3d(5, **({"norm": make_norm("gn")} | options))
