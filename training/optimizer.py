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

    Matrices of one shape are orthogonalised together, and all else is done for all parameters at once: on a card a
    model of 900 small ones would wait for their launches. `lr` may be changed between steps; it is the same for both.
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
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        trained = self._with_gradients(parameters, ("momentum",))
        gradients = _gradients(trained)
        momenta = [self.state[each]["momentum"] for each in trained]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        updates = torch._foreach_lerp(gradients, momenta, self.momentum)  # Nesterov's look ahead
        for each, update in zip(trained, updates, strict=True):
            matrix = update.flatten(1)
            shapes[matrix.shape[0], matrix.shape[1]].append((each, matrix))
        for (rows, columns), members in shapes.items():
            turned = orthogonal(torch.stack([matrix for _, matrix in members]))
            steps = [step.view_as(each) for (each, _), step in zip(members, turned, strict=True)]
            torch._foreach_add_([each for each, _ in members], steps, alpha=-lr * 0.2 * max(rows, columns) ** 0.5)

    def _adam(self, parameters: list[nn.Parameter], lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        trained = self._with_gradients(parameters, ("mean", "square"))
        if not trained:
            return
        gradients, states = _gradients(trained), [self.state[each] for each in trained]
        for state in states:
            state["step"] = state.get("step", torch.zeros(())) + 1
        count, means, squares = (
            int(states[0]["step"]),
            *([state[key] for state in states] for key in ("mean", "square")),
        )
        torch._foreach_lerp_(means, gradients, 1 - betas[0])
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - betas[1])
        sizes = torch._foreach_div(squares, 1 - betas[1] ** count)
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, 1e-8)
        torch._foreach_addcdiv_(trained, means, sizes, value=-lr / (1 - betas[0] ** count))

    def _with_gradients(self, parameters: list[nn.Parameter], keys: tuple[str, ...]) -> list[Tensor]:
        """Those that were used, each with a state of zeros where it has none yet."""
        trained: list[Tensor] = [each for each in parameters if each.grad is not None]
        for each in trained:
            if not self.state[each]:
                self.state[each].update((key, torch.zeros_like(each)) for key in keys)
        return trained


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [each.grad for each in parameters if each.grad is not None]
