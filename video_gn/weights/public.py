"""Names of public weights that are known to fit, and where those of Facebook are; imports nothing."""

_FACEBOOK = "https://dl.fbaipublicfiles.com"
DETECTRON = {
    name: f"{_FACEBOOK}/detectron/ImageNetPretrained/{number}/{name}.pkl"
    for name, number in {"R-50-GN": 47261647, "R-101-GN": 47592356}.items()
}
_NAMED = ("r2plus1d_r50", "x3d_xs", "x3d_s", "x3d_m", "x3d_l", "slowfast_r50", "slowfast_r101", "csn_r101")
PYTORCHVIDEO = ("i3d_r50", "c2d_r50", "slow_r50", *_NAMED)
TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
# By the networks that are called as in their libraries.
NAMED = {
    **{name: f"torchvision:{name}" for name in TORCHVISION},
    **{name: f"pytorchvideo:{name}" for name in _NAMED},
}
NONLOCAL = {
    f"{name}_400k": f"{_FACEBOOK}/video-nonlocal/{name}_400k.pkl"
    for kind in ("baseline", "nonlocal")
    for name in (f"i3d_{kind}_32x2_IN_pretrain", f"i3d_{kind}_8x8_IN_pretrain")
}
# What is known to fit, with its data, norm and network; timm and torchvision have more.
OWN = {  # of this project, in its package: i3d_small of depth 11 and width 16
    "motion12_gn": "GN",
    "motion12_gn_ws": "GN and weight_standardization",
    "motion12_bn": "BN",
}
PUBLIC = {
    **{f"video_gn:{name}": f"motion12, {norm}, i3d_small" for name, norm in OWN.items()},
    **dict.fromkeys(("torchvision:resnet50", "torchvision:resnet101"), "ImageNet, BN, flat"),
    "timm:resnet50_gn.a1h_in1k": "ImageNet, GN, flat",
    "timm:resnetv2_50x1_bit.goog_in21k": "ImageNet-21k, GN and weight_standardization, resnetv2_flat",
    **{f"detectron:{name}": "ImageNet, GN, flat" for name in DETECTRON},
    **{
        f"pytorchvideo:{name}": f"Kinetics-400, BN, {name.partition('_')[0]}_8x8"
        for name in PYTORCHVIDEO
        if name not in _NAMED
    },
    **{public: f"Kinetics-400, BN, {name}" for name, public in NAMED.items()},
    **{
        f"nonlocal:{name}": f"Kinetics-400, BN, i3d_nonlocal{', nonlocal_blocks 5' if '_nonlocal_' in name else ''}"
        for name in NONLOCAL
    },
}
