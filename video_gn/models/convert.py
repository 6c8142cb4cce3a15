"""A trained network with another norm: what is replaced, what is re-fitted, and how far it agrees with the one before.

A network trained with BatchNorm computes something else once GroupNorm takes BN's place: the statistics that gamma and
beta were learned with are gone. Given clips, gamma and beta of each layer are re-fitted to what BN gave, in the order
of the layers' calls, each on what the converted layers before it give:

    least squares over clips and positions, for each channel:  gamma * z + beta  ~  BN's output by running statistics

where z is the new norm's output without gamma and beta. The closed form is gamma = cov(z, t) / var(z) and beta =
mean(t) - gamma mean(z), in float64. All layers are fitted in one pass, which carries every clip twice, once through the
old norms and once through the new ones; everything else in a network in evaluation keeps clips apart. (A layer that is
called several times is fitted to all of its calls, of which the first have passed with an earlier fit.)
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from video_gn.errors import InputError
from video_gn.models.norm import check_words
from video_gn.models.replace import Replaced, replace_norms
from video_gn.models.side_by_side import Both, both_kernels, calls_of, check_calls, check_sides, evaluated, in_place

# Norms that are gamma * z + beta in evaluation, with a z that knows nothing of gamma and beta.
FITTED = ("gn", "ln", "in", "bn", "brn", "frozen_bn")


@dataclass
class Conversion:
    """What a conversion did.

    Attributes:
        replaced: The norms.
        clips: How many clips it was compared on; 0 without any.
        agreement: Of the clips, the fraction with the class of before, as the norms were replaced.
        refitted: That after gamma and beta were fitted; None where they were not.
        uncalled: How many norms the clips did not pass, which are not fitted.
    """

    replaced: Replaced
    clips: int = 0
    agreement: float | None = None
    refitted: float | None = None
    uncalled: int = 0

    def __str__(self) -> str:
        said = [str(self.replaced)]
        if self.agreement is not None:
            said.append(f"the class of before on {self.agreement:.1%} of {self.clips} clips")
        elif self.clips and self.replaced.unlike:
            said.append(f"with gamma and beta re-fitted on {self.clips} clips; no scores of classes to compare")
        if self.refitted is not None:
            said.append(f"with gamma and beta re-fitted on {self.refitted:.1%}")
        if self.uncalled:
            said.append(f"{self.uncalled} norms are not called in evaluation, and not fitted")
        return "; ".join(said)


def convert_norm(model: nn.Module, to: str = "gn", clips: Any = None, **options: Any) -> nn.Module:
    """Gives a network another norm in the place of each of its norms, in place, and prints what was done.

    BN to frozen BN, and back, is exact. To GN, LN or IN nothing is: with `clips`, gamma and beta are re-fitted layer
    after layer to what the network computed before (the module's docstring has the formula), and the agreement of the
    two networks is printed; without, they are BN's, and the network has to be trained again.

    Args:
        model: Any network, with norms for 1, 2 or 3 dimensions; what it is replaced by is said at `replace_norms`.
        to: A word of `video_gn.models.norm.NORMS`.
        clips: Inputs as the network takes them, `[N, C, ...]`, or several batches of them; a few dozen are enough, of
            training. All go through at once, without gradients.
        options: Of the norm: `num_groups` and the like, `weight_standardization`.

    Returns:
        The network; another object only if it is a norm itself.

    Raises:
        InputError: As `replace_norms`; or clips for a norm that cannot be fitted so.
    """
    model, done = convert(model, to, clips, **options)
    print(done)
    if clips is None and done.replaced.unlike:
        print("without clips gamma and beta are those of the norm before, which the new one does not fit: train it")
    return model


def convert(model: nn.Module, to: str = "gn", clips: Any = None, **options: Any) -> tuple[nn.Module, Conversion]:
    """As `convert_norm`, and says what was done instead of printing it."""
    check_words(to, options)
    if clips is not None and to not in FITTED:
        raise InputError(f"clips re-fit gamma and beta of: {', '.join(FITTED)}; {to} is to be trained: leave clips out")
    if clips is None:
        model, replaced = replace_norms(model, to, **options)
        return model, Conversion(replaced)
    batch = _joined(clips)
    calls, scores = calls_of(model, batch)
    check_calls(model, calls, to)
    check_sides(model, batch, calls, scores)
    model, replaced = replace_norms(model, to, **options)
    done = refit(model, replaced, batch)
    done.uncalled = len(replaced.pairs) - len(calls)
    return model, done


def refit(model: nn.Module, replaced: Replaced, clips: Tensor) -> Conversion:
    """Fits gamma and beta of new norms to what the old ones gave, where they compute something else.

    Args:
        model: With the new norms.
        replaced: The norms of before and now, by name.
        clips: `[N, C, ...]`.
    """
    # Gamma and beta of the old ones stay as they are, while those of the new ones, maybe the same parameters, change.
    pairs = {name: (deepcopy(old), new) for name, (old, new) in replaced.pairs.items()}
    replaced = replace(replaced, pairs=pairs)
    done = Conversion(replaced, len(clips), _compare(model, replaced, clips))
    if replaced.unlike:
        _compare(model, replaced, clips, fit=True)
        done.refitted = _compare(model, replaced, clips)
    return done


def _joined(clips: Any) -> Tensor:
    batches = [clips] if isinstance(clips, Tensor) else list(clips) if isinstance(clips, Iterable) else []
    if not batches or not all(isinstance(batch, Tensor) and batch.ndim and len(batch) for batch in batches):
        raise InputError("clips have to be a tensor [N, C, ...], or several, with at least one clip")
    if len({batch.shape[1:] for batch in batches}) > 1:
        raise InputError(f"clips of several sizes: {', '.join(str(list(batch.shape)) for batch in batches[:3])}")
    joined = torch.cat(batches)
    if not joined.isfinite().all():
        raise InputError("clips have numbers that are not finite; give clips as the network takes them")
    return joined


def _compare(model: nn.Module, replaced: Replaced, clips: Tensor, fit: bool = False) -> float | None:
    """The fraction of clips whose class is that of before; None where the network gives no scores of classes.

    Args:
        model: With the new norms.
        replaced: These, and those of before.
        clips: `[N, C, ...]`.
        fit: Whether gamma and beta of the new ones are fitted to the old ones on the way.
    """
    root = nn.Sequential(model)  # which holds it, should it be a norm itself
    both: dict[int, nn.Module] = {id(new): Both(old, new, fit).eval() for old, new in replaced.pairs.values()}
    with torch.no_grad(), evaluated(model), in_place(root, both), both_kernels(replaced.kernels):
        scores = root(torch.cat([clips, clips]))
    if not isinstance(scores, Tensor) or scores.ndim < 2 or len(scores) != 2 * len(clips):
        return None
    before, now = (half.flatten(2).mean(2) if half.ndim > 2 else half for half in scores.chunk(2))
    return (before.argmax(1) == now.argmax(1)).double().mean().item()
