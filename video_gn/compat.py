"""What is private in torch and in Python's library, and used all the same."""

import pickle
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

F = TypeVar("F", bound=Callable[..., Any])

BatchNorm = nn.modules.batchnorm._BatchNorm  # what BN of any dimension and synchronised BN are
NormBase = nn.modules.batchnorm._NormBase  # InstanceNorm too
InstanceNorm = nn.modules.instancenorm._InstanceNorm
Dropout = nn.modules.dropout._DropoutNd  # of any dimension
PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]  # the one in C trusts the sizes that a file says


def constant_result(function: F) -> F:
    """Has `torch.compile` take a function's result for a constant.

    As `torch.compiler.assume_constant_result`, which imports the compiler: 4 seconds, for whoever compiles nothing.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def shapes_alone() -> AbstractContextManager[Any]:
    """Within it, tensors are made without memory, of devices that need not be there; those with memory are taken so."""
    if not torch.cuda.is_available():
        # The mode has PyTorch believe in a GPU from then on. Autograd's engine would start a thread for it, after which
        # no forked process can differentiate, if it were not started already.
        torch.ones((), requires_grad=True).backward()
    return FakeTensorMode(allow_non_fake_inputs=True)


def is_fake(x: Tensor) -> bool:
    """Whether a tensor has a shape, a type and a device, and no memory."""
    return isinstance(x, FakeTensor)


def transforming() -> bool:
    """Whether a transform of `torch.func` (grad, vmap, jvp) is being applied."""
    return torch._C._are_functorch_transforms_active()


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies each source to its target, in few kernels."""
    torch._foreach_copy_(list(targets), list(sources))


def hooked(modules: Iterable[nn.Module], parameters: Iterable[Tensor]) -> bool:
    """Whether somebody wants to be called with what passes a module, or with a parameter's gradient."""
    return (
        nn.modules.module._has_any_global_hook()
        or any(
            module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
            for module in modules
        )
        or any(parameter._backward_hooks for parameter in parameters)
    )


def shared_memory(like: Tensor, size: int) -> Tensor:
    """An empty tensor of `size` elements in memory that a loader's worker hands over without a copy.

    Args:
        like: A tensor of the same type.
        size: Elements that there is room for.
    """
    return like.new(like._typed_storage()._new_shared(size))


def end_workers(loader: torch.utils.data.DataLoader) -> None:
    """Ends the worker processes of a loader, if it has any."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        loader._iterator = None


def forget_inputs(program: torch.export.ExportedProgram) -> None:
    """Takes away the inputs with which a program was traced, so that no file holds them."""
    program._example_inputs = None
