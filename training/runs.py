"""A model in training: its running mean, its checkpoint, and the loop that steps until the time is up."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from svdlab.atomic_files import atomic_write

Model = TypeVar("Model", bound=nn.Module)


def place(model: Model, device: str) -> Model:
    model.to(torch.device(device))  # in a line of its own: diffusers' types lose the model in `.to(...)`
    return model


def average(parameters: list[nn.Parameter], world: int) -> None:
    """Average gradients over all processes, in one message."""
    if world == 1:
        return
    flat = torch.cat([(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in parameters])
    dist.all_reduce(flat)
    flat /= world
    for each, piece in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
        each.grad = piece.view_as(each)


class Average:
    """A running mean of the weights that forgets the early ones: step t counts t^8 (Karras and others, 2312.02696)."""

    def __init__(self, model: nn.Module, power: float = 8.0):
        self.power, self.step = power, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.step += 1
        share = 1 - (1 - 1 / self.step) ** (self.power + 1)
        torch._foreach_lerp_(list(self.weights.values()), list(model.state_dict().values()), share)


@dataclass
class Run:
    """A model in training and all that a restart needs: `save` and `load` keep it in one file, whole or not at all."""

    name: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    path: Path
    seconds: float = 0.0
    step: int = 0

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "seconds": self.seconds,
                 "step": self.step, "average": self.average.weights, "average_step": self.average.step}  # fmt: skip
        with atomic_write(self.path) as beside:
            torch.save(state, beside)

    def load(self) -> bool:
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True, map_location=next(self.model.parameters()).device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.weights, self.average.step = state["average"], state["average_step"]
        self.seconds, self.step = state["seconds"], state["step"]
        return True


def rate_at(done: float, step: int, warm_up: int) -> float:
    """The learning rate's share of its top: up over the first steps, level, down over the last third of the time."""
    return min(1.0, (step + 1) / warm_up) * min(1.0, max(0.03, (1 - done) * 3))


def hasten(optimizer: torch.optim.Optimizer, parts: list[Tensor], factor: float) -> None:
    """Lengthen every step of these views of parameters: what is new in a grown model starts at zero, far behind."""
    before: list[Tensor] = []

    def remember(*_) -> None:
        before[:] = [part.detach().clone() for part in parts]

    @torch.no_grad()
    def lengthen(*_) -> None:
        for part, old in zip(parts, before, strict=True):
            part.detach().add_(part - old, alpha=factor - 1)

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(lengthen)


class Clock:
    """Seconds spent inside `with clock:`: of this process on a CPU, of the card's work on a card."""

    def __init__(self, device: str):
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> None:
        self.start = self.now()

    def __exit__(self, *_) -> None:
        self.seconds += self.now() - self.start

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.monotonic()


def train(
    run: Run,
    loss_of,
    minutes: float,
    rate: float,
    warm_up: int,
    options,
    rank: int,
    clip: float,
    drawing: Clock,
    export=None,
) -> None:
    """Step until the time is up. `loss_of()` gives a loss; `export()` renews the weights folder now and then.

    `options` are `training.train.Options`.
    """
    parameters = [each for each in run.model.parameters() if each.requires_grad]
    last, saved, exported, losses, parent = drawing.now(), run.seconds, run.seconds, [], os.getppid()
    while run.seconds < minutes * 60 and (options.steps is None or run.step < options.steps):
        for group in run.optimizer.param_groups:
            group["lr"] = rate * rate_at(run.seconds / (minutes * 60), run.step, warm_up)
        loss = loss_of()
        run.optimizer.zero_grad()
        loss.backward()
        average(parameters, options.processes)
        nn.utils.clip_grad_norm_(parameters, clip)
        run.optimizer.step()
        run.average.update(run.model)
        run.step += 1
        losses.append(loss.detach())
        now = drawing.now()  # on a shared CPU the time that others took is not this run's
        clock = torch.tensor([run.seconds + now - last], dtype=torch.float64)
        last = now
        if options.processes > 1:
            dist.broadcast(clock, 0)  # one clock, so that all stop together
        run.seconds = float(clock)
        if os.getppid() != parent:
            raise SystemExit("the process that started this one is gone")
        if rank:
            continue
        if run.step % (50 if options.device == "cuda" else 10) == 0:
            left = max(0.0, minutes - run.seconds / 60)
            mean = float(torch.stack(losses).mean())
            losses.clear()
            pace = f"{run.seconds / run.step:.2f} s/step  {left:5.1f} min left  drawing {drawing.seconds:.0f} s so far"
            print(f"{run.name} step {run.step:6d}  loss {mean:.4f}  {pace}", flush=True)
        if run.seconds - saved > options.save_minutes * 60:
            run.save()
            saved = run.seconds
        if export and run.seconds - exported > options.export_minutes * 60:
            export()
            exported = run.seconds
    if rank == 0:
        run.save()
        if export:
            export()
