"""The loop of two networks against each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tabvae_core.adversarial import AdversarialPlan, AdversarialRecord, train_adversarial
from tabvae_core.errors import DataError
from tabvae_core.progress import Progress, ProgressEvent, silent


class Duel:
    """A shift that is to be found, by a critic that sees means."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.generator = nn.Linear(2, 2)
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        self.critic_calls = 0

    def made(self, random: torch.Generator) -> Tensor:
        made: Tensor = self.generator(torch.randn(64, 2, generator=random))
        return made

    def generator_loss(self, random: torch.Generator) -> Tensor:
        score: Tensor = self.critic(self.made(random)).mean()
        return -score

    def critic_loss(self, random: torch.Generator) -> Tensor:
        self.critic_calls += 1
        real = torch.randn(64, 2, generator=random) + 3.0
        score: Tensor = self.critic(self.made(random).detach()).mean() - self.critic(real).mean()
        return score + sum((p**2).sum() for p in self.critic.parameters())

    def train(
        self, checkpoint: Path | None = None, progress: Progress = silent, **settings: object
    ) -> AdversarialRecord:
        plan = AdversarialPlan(**{"epochs": 20, "steps_an_epoch": 10, "learning_rate": 0.02, "seed": 3} | settings)  # type: ignore[arg-type]
        return train_adversarial(
            self.generator, self.critic, self.generator_loss, self.critic_loss, plan,
            progress=progress, checkpoint=checkpoint,
        )  # fmt: skip


def test_the_generator_finds_what_the_critic_knows() -> None:
    duel = Duel()
    before = float(duel.generator.bias.detach().mean())
    record = duel.train()
    assert float(duel.generator.bias.detach().mean()) > before + 1
    assert (record.epochs, record.steps, record.stopped) == (20, 200, "epochs")
    assert len(record.generator_loss) == len(record.critic_loss) == 20


def test_critic_steps() -> None:
    duel = Duel()
    duel.train(epochs=2, critic_steps=3)
    assert duel.critic_calls == 60


def test_the_generator_ends_with_averaged_weights_that_change_nothing_in_training() -> None:
    last, averaged = Duel(), Duel()
    weights: list[Tensor] = []

    def critic_loss(random: torch.Generator) -> Tensor:
        weights.append(averaged.generator.bias.detach().clone())
        return averaged.critic_loss(random)

    last.train(epochs=3)
    plan = AdversarialPlan(3, 10, learning_rate=0.02, average=0.8, seed=3)
    train_adversarial(averaged.generator, averaged.critic, averaged.generator_loss, critic_loss, plan)
    for a, b in zip(last.critic.parameters(), averaged.critic.parameters(), strict=True):
        assert torch.equal(a, b)
    expected = weights[0]
    for step, weight in enumerate([*weights[1:], last.generator.bias.detach()], start=1):
        expected = expected.lerp(weight, 1 - min(0.8, step / (step + 10)))
    torch.testing.assert_close(averaged.generator.bias.detach(), expected)


class Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, broken, resumed = Duel(), Duel(), Duel()
    whole.train(average=0.9)

    def dies(event: ProgressEvent) -> None:
        if event.done == 7:
            raise Killed

    with pytest.raises(Killed):
        broken.train(tmp_path, dies, average=0.9)
    epochs: list[float] = []
    record = resumed.train(tmp_path, lambda event: epochs.append(event.done), average=0.9)
    assert epochs[0] == 8
    assert record.epochs == 20
    for a, b in zip(whole.generator.parameters(), resumed.generator.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_plan_is_left_alone(tmp_path: Path) -> None:
    Duel().train(tmp_path, epochs=2)
    record = Duel().train(tmp_path, epochs=3)
    assert len(record.generator_loss) == record.epochs == 3


def test_max_seconds_stops_within_an_epoch() -> None:
    record = Duel().train(epochs=1, steps_an_epoch=10**9, max_seconds=0.1)
    assert record.stopped == "max_seconds"
    assert record.epochs == 1
    assert record.steps > 0


def test_progress_tells_both_losses() -> None:
    events: list[ProgressEvent] = []
    record = Duel().train(epochs=2, progress=events.append)
    assert events[-1].done == events[-1].total == 2
    assert f"loss {record.generator_loss[-1]:.3f}, of the critic {record.critic_loss[-1]:.3f}" in events[-1].message


def test_a_training_that_comes_apart_is_an_error() -> None:
    duel = Duel()
    with pytest.raises(DataError, match="came apart in epoch 1"):
        train_adversarial(
            duel.generator, duel.critic, duel.generator_loss, lambda random: duel.critic_loss(random) * torch.nan,
            AdversarialPlan(2, 2),
        )  # fmt: skip
