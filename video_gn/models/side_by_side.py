"""A network with the norms of before and of now side by side: each clip goes through it twice, in one batch.

The first half of the batch passes the old norms, the second the new ones, which are fitted to the first on the way.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.kernels.layers import Fused, finish
from video_gn.models.replace import has_statistics, norms_of


class _Zeros(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Both(Fused, nn.Module):
    """The old norm on the first half of a batch, the new one on the second, fitted to the first before or not."""

    def __init__(self, old: nn.Module, new: Any, fit: bool = False) -> None:
        super().__init__()
        self.old, self.new = old, new
        self.lengths: list[int] = []  # of the batches, call by call
        self.bare = _bare(new) if fit else None
        self.learns = has_statistics(new) and not has_statistics(old)
        self.sums: Tensor | None = None  # float64 [5, C]: count, of z, t, z^2, z t
        self.own: Tensor | None = None  # of the input, likewise

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        x = input
        self.lengths.append(len(x))
        before, now = x.tensor_split(2)
        target = self.old(before)
        if self.bare is not None:
            self._fit(now, target)
        return finish(torch.cat([target, self.new(now)]), residual, relu, x.dtype)

    def _fit(self, x: Tensor, target: Tensor) -> None:
        assert self.bare is not None
        if self.learns:  # of all its calls
            own = _sums(x, x)
            self.own = own if self.own is None else self.own + own
            count, total, _, squares, _ = self.own
            for layer in (self.bare, self.new):
                layer.running_mean.copy_(total / count)
                layer.running_var.copy_((squares - total**2 / count).clamp_min(0) / (count - 1))
        sums = _sums(self.bare(x), target)
        self.sums = sums if self.sums is None else self.sums + sums  # of a layer that is called again, of all calls
        count, *sums_of = self.sums
        mean_z, mean_t, mean_zz, mean_zt = (value / count for value in sums_of)
        var = mean_zz - mean_z**2
        flat = var <= 1e-12 * mean_zz.clamp_min(1e-30)
        gamma = torch.where(flat, 0.0, (mean_zt - mean_z * mean_t) / torch.where(flat, 1.0, var))
        self.new.weight.copy_(gamma)
        self.new.bias.copy_(mean_t - gamma * mean_z)


def _sums(z: Tensor, t: Tensor) -> Tensor:
    """Over clips and positions, float64 `[5, C]`: count, z, t, z^2, z t.

    Clip by clip: all of them in float64 would take twenty times the memory of the features.
    """
    sums = torch.zeros(5, z.shape[1], dtype=torch.float64, device=z.device)
    for features, given in zip(z, t, strict=True):
        a, b = (side.reshape(len(side), -1).double() for side in (features, given))
        sums += torch.stack([torch.ones_like(a).sum(1), a.sum(1), b.sum(1), (a * a).sum(1), (a * b).sum(1)])
    return sums


def _bare(layer: Any) -> Any:
    """A norm without gamma and beta."""
    made = deepcopy(layer)
    made.weight.data.fill_(1.0)
    made.bias.data.zero_()
    return made


def calls_of(model: nn.Module, clips: Tensor) -> tuple[dict[str, list[torch.Size]], Any]:
    """The shapes of what passes each norm of a network in evaluation, by name and call by call; and what it gives."""
    found: dict[str, list[torch.Size]] = {}

    def note(name: str, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.setdefault(name, []).append((given[0] if given else named["input"]).shape)

    hooks = [
        layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, layer in norms_of(model).items()
    ]
    try:
        with torch.no_grad(), evaluated(model):
            scores = model(clips)
    finally:
        for hook in hooks:
            hook.remove()
    return found, scores


def check_sides(model: nn.Module, clips: Tensor, calls: Mapping[str, Sequence[torch.Size]], scores: Any) -> None:
    """Raises InputError for a network in which clips of the old norms and of the new ones could not go side by side.

    Nothing is changed yet: norms that give zeros take the place of the new ones, and may change no clip of the others.

    Args:
        model: With the old norms.
        clips: `[N, C, ...]`.
        calls: Of the network, as are the scores.
        scores: Of the clips.
    """
    root, norms = nn.Sequential(model), norms_of(model)
    both = {id(layer): Both(layer, _Zeros()).eval() for layer in norms.values()}
    remedy = "leave clips out, and train the network afterwards"
    try:
        with torch.no_grad(), evaluated(model), in_place(root, both):
            doubled = root(torch.cat([clips, clips]))
    except AttributeError as error:
        raise InputError(
            f"{type(model).__name__} reads what only its own norms have, beside calling them ({error}); call them alone"
        ) from error
    for name, shapes in calls.items():
        if not (lengths := both[id(norms[name])].lengths):
            raise InputError(
                f"the norm {name} is called in another way than by its name, so that the old one would stay: is it in "
                "a list too? Use nn.ModuleList, or one name"
            )
        if lengths != [2 * shape[0] for shape in shapes]:
            raise InputError(
                f"the norm {name} is given batches of {lengths[0]} for {2 * len(clips)} clips and of {shapes[0][0]} "
                f"for {len(clips)}; gamma and beta are fitted where all clips pass a norm together: {remedy}"
            )
    if not isinstance(scores, Tensor) or not isinstance(doubled, Tensor):
        return
    first = doubled[: len(scores)]
    if first.shape != scores.shape or not torch.allclose(first, scores, 1e-2, 1e-3 * float(scores.abs().max())):
        raise InputError(
            f"{type(model).__name__} takes clips apart or puts them in another order on the way, or is random in "
            f"evaluation, so that old and new norms cannot be compared side by side: {remedy}"
        )


def check_calls(model: nn.Module, calls: Mapping[str, Sequence[torch.Size]], to: str) -> None:
    """Raises InputError for norms that cannot be fitted; nothing is changed yet."""
    owners: dict[int, str] = {}
    for name, layer in norms_of(model).items():
        for parameter in layer.parameters(recurse=False):
            if (other := owners.setdefault(id(parameter), name)) != name:
                raise InputError(f"the norms {other} and {name} share parameters, so they cannot be fitted one by one")
    for name, shapes in calls.items():
        numbers = [shape.numel() // shape[1] for shape in shapes]
        if to == "in" and any(count == shape[0] for count, shape in zip(numbers, shapes, strict=True)):
            raise InputError(f"{name or 'the norm'} has a single number a clip and channel, of which IN leaves nothing")
        if to in ("bn", "brn") and sum(numbers) == 1:
            raise InputError(
                f"{name or 'the norm'} has a single number a channel, which has no variance; give more clips"
            )


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Within it, all of a network is in evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def in_place(model: nn.Module, others: Mapping[int, nn.Module]) -> Iterator[None]:
    """Within it, modules of a network, by their ids, have others in their place."""
    named = model.named_modules(remove_duplicate=False)
    at = {name: module for name, module in named if id(module) in others}
    try:
        _put(model, {name: others[id(module)] for name, module in at.items()})
        yield
    finally:
        _put(model, at)


@contextmanager
def both_kernels(kernels: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Within it, convolutions have the kernels of before on the first half of a batch."""

    def call(old: Any, new: Any, x: Tensor) -> Tensor:
        before, now = x.tensor_split(2)
        return torch.cat([old(before), new(now)])

    for old, new in kernels:
        new.forward = partial(call, old.forward, new.forward)
    try:
        yield
    finally:
        for _, new in kernels:
            del new.forward


def _put(model: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)
