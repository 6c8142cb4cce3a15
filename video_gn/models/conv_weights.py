"""Kernels that are standardised or centred before a convolution uses them, in any network.

| form           | the kernel `[O, I, ...]` that is used, for each of the O outputs                      |
|----------------|---------------------------------------------------------------------------------------|
| `standardized` | `(w - mean) / sqrt(var + 1e-8)`, divided by T of `[O, I, T, H, W]` (Qiao et al. 2019) |
| `centered`     | `w - mean` (Yan et al. 2020), which moving average batch normalization needs          |

Mean and (biased) variance are over all but O. Qiao et al. add 1e-5 to an unbiased deviation; 1e-8 in the root is BiT's
in timm (Kolesnikov et al. 2020), whose weights are read. The division by T has a kernel repeated along time give the
flat network's features on a still clip; a norm behind the convolution undoes it anyway. So flat kernels are inflated by
repeating them alone.
"""

from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from video_gn.errors import InputError
from video_gn.models.interface import Known
from video_gn.models.norm_layers import wide, without_autocast

EPS = 1e-8
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
N = TypeVar("N", bound=nn.Module)
FORMS = ("standardized", "centered")


def standardized(weight: Tensor) -> Tensor:
    """A kernel whose numbers have, for each output, mean 0 and variance 1 / T^2."""
    rest = list(range(1, weight.ndim))
    var, mean = torch.var_mean(weight, rest, correction=0, keepdim=True)
    frames = weight.shape[2] if weight.ndim == 5 else 1
    return (weight - mean) * ((var + EPS).rsqrt() / frames)


def centered(weight: Tensor) -> Tensor:
    """A kernel whose numbers have mean 0 for each output."""
    return weight - weight.mean(list(range(1, weight.ndim)), keepdim=True)


class Formed:
    """A convolution that uses its kernel in a form; `form_weights` makes it of any other.

    Attributes:
        form: A word of `FORMS`.
    """

    form: str
    weight: Any

    @property
    def formed_weight(self) -> Tensor:
        """The kernel that is used, in float32 at least."""
        return self._formed(self.weight)

    def _formed(self, weight: Tensor) -> Tensor:
        return standardized(wide(weight)) if self.form == "standardized" else centered(wide(weight))

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with without_autocast(x):
            formed = self._formed(weight)
        return super()._conv_forward(x, formed.to(weight.dtype), bias)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (_plain(type(self)),), self.__dict__

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight {self.form}"  # type: ignore[misc]


def form_weights(net: nn.Module, form: str) -> int:
    """Has every convolution without a bias use its kernel in a form; gives their number.

    A convolution before a norm has none by custom; one that has a bias keeps its kernel. So do those of a single number
    an output, which would all become 0. Names and values of the parameters stay.

    Args:
        net: Any network, changed in place.
        form: A word of `FORMS`.

    Raises:
        InputError: As `formable`.
    """
    found = formable(net)
    for module in found:
        if not isinstance(module, Formed):
            module.__class__ = _formed(type(module))  # type: ignore[arg-type]
        module.form = form
    return len(found)


def formable(net: nn.Module) -> list[Any]:
    """The convolutions whose kernels `form_weights` forms; not those that a network of this project says have no norm.

    Raises:
        InputError: One makes its kernel itself, or uses it in a way of its own.
    """
    left = {id(conv) for module in net.modules() if isinstance(module, Known) for conv in module.without_norm()}
    found: list[Any] = []
    for name, module in net.named_modules():
        if not isinstance(module, CONVOLUTIONS) or module.bias is not None or id(module) in left:
            continue
        own = type(module).forward.__module__.partition(".")[0] not in ("torch", "video_gn")
        if own or not isinstance(module.weight, nn.Parameter) or is_parametrized(module):
            raise InputError(
                f"the convolution {name} ({type(module).__name__}) makes its kernel or its padding itself, so that the "
                "kernel cannot be standardised or centred; put a plain convolution in its place"
            )
        if module.weight[0].numel() > 1:
            found.append(module)
    return found


def fold_weights(net: N, form: str | None = None) -> N:
    """Has the convolutions keep the kernels that they use, and no longer form them: the same outputs; gives `net`.

    Args:
        net: Changed in place.
        form: The form whose kernels are kept; None for any.
    """
    for module in net.modules():
        if isinstance(module, Formed) and form in (None, module.form):
            with torch.no_grad():
                module.weight.copy_(module.formed_weight)  # type: ignore[operator]
            module.__class__ = _plain(type(module))
            del module.form
    return net


def is_formed(conv: nn.Module, form: str) -> bool:
    """Whether a convolution uses its kernel in a form."""
    return isinstance(conv, Formed) and conv.form == form


@cache
def _formed(plain: type) -> type:
    return type(plain.__name__, (Formed, plain), {"__module__": __name__, "__doc__": Formed.__doc__})


def _plain(formed: Any) -> type:
    return formed.__bases__[1]


def _rebuild(plain: type) -> Any:
    made: Any = _formed(plain)
    return made.__new__(made)
