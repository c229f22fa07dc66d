"""An optimiser for short trainings on few cores: Muon for matrices and convolutions, Adam for everything else.

Muon (Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/) turns each matrix's momentum into the
nearest orthogonal matrix before stepping. Where a step costs a second and there are only thousands of them, that is
worth its few per cent of extra work. Updates are scaled to the size that Adam's usually have (0.2 root mean square
of the learning rate, after Moonlight, arXiv 2502.16982), so one learning rate serves both.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration, from Jordan's post; five rounds bring singular values near 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest orthogonal matrices, roughly: (n, rows, columns) in and out."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = NEWTON_SCHULZ
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two axes and more, Adam for the rest and for those in `adam_only`.

    Matrices of one shape are orthogonalised together. `lr` may be changed between steps; it is the same for both.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        adam_only: Iterable[nn.Parameter] = (),
        momentum: float = 0.95,
    ):
        listed, excluded = list(parameters), {id(each) for each in adam_only}
        matrices = [each for each in listed if each.ndim > 1 and id(each) not in excluded]
        chosen = {id(each) for each in matrices}
        others = [each for each in listed if id(each) not in chosen]
        super().__init__([{"params": matrices, "muon": True}, {"params": others, "muon": False}], {"lr": lr})
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adam)(group["params"], group["lr"])

    def _muon(self, parameters: list[nn.Parameter], lr: float) -> None:
        shapes: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for each in parameters:
            if each.grad is None:
                continue
            state = self.state[each]
            if not state:
                state["momentum"] = torch.zeros_like(each)
            state["momentum"].lerp_(each.grad, 1 - self.momentum)
            update = each.grad.lerp(state["momentum"], self.momentum).flatten(1)  # Nesterov's look ahead
            shapes[update.shape[0], update.shape[1]].append((each, update))
        for (rows, columns), members in shapes.items():
            updates = orthogonal(torch.stack([update for _, update in members]))
            scale = 0.2 * max(rows, columns) ** 0.5
            for (each, _), update in zip(members, updates, strict=True):
                each.add_(update.view_as(each), alpha=-lr * scale)

    def _adam(self, parameters: list[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        for each in parameters:
            if each.grad is None:
                continue
            state = self.state[each]
            if not state:
                state.update(step=torch.zeros(()), mean=torch.zeros_like(each), square=torch.zeros_like(each))
            state["step"] += 1
            count = int(state["step"])
            state["mean"].lerp_(each.grad, 1 - betas[0])
            state["square"].lerp_(each.grad.square(), 1 - betas[1])
            size = (state["square"] / (1 - betas[1] ** count)).sqrt_().add_(1e-8)
            each.addcdiv_(state["mean"], size, value=-lr / (1 - betas[0] ** count))
