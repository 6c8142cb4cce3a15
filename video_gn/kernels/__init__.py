"""Triton kernels: normalization + residual sum + ReLU, and max pooling with one-byte indices."""

from video_gn.kernels.layers import GroupNorm, InstanceNorm, norm_act

__all__ = ["GroupNorm", "InstanceNorm", "norm_act"]
