"""How large a network is: its parameters, and the multiply-adds of a clip."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(net: nn.Module) -> int:
    """Numbers that training changes, buffers of norms not among them."""
    return sum(parameter.numel() for parameter in net.parameters())


def multiply_adds(net: nn.Module, num_frames: int, side: int) -> int:
    """Multiply-adds of convolutions and linear layers for one clip of square frames; no norm, pool or ReLU counts.

    Args:
        net: On the meta device it takes no memory and no time.
        num_frames: T.
        side: Of the frames, in pixels.
    """
    device = next(net.parameters()).device
    training = net.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.eval()(torch.empty(1, 3, num_frames, side, side, device=device))
    net.train(training)
    return counter.get_total_flops() // 2
