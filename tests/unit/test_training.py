from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tabvae_core.errors import DataError
from tabvae_core.progress import ProgressEvent
from tabvae_core.training import TrainingPlan, TrainingRecord, train

ROWS = 256
X = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


def fresh() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
    kept = torch.rand(len(rows), 4, generator=generator) >= 0.1
    return nn.functional.mse_loss(model(X[rows] * kept), Y[rows])


def validation_loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(X), Y))


def run(model: nn.Module, checkpoint: Path | None = None, **plan: object) -> TrainingRecord:
    settings: dict[str, object] = {"epochs": 12, "batch_size": 32, "learning_rate": 0.02, "seed": 3} | plan
    return train(model, loss, validation_loss, ROWS, TrainingPlan(**settings), checkpoint=checkpoint)  # type: ignore[arg-type]


def test_ends_with_the_weights_of_the_best_epoch() -> None:
    model = fresh()
    record = run(model)
    assert record.validation_loss[-1] < record.validation_loss[0]
    assert validation_loss(model) == pytest.approx(min(record.validation_loss), abs=1e-4)
    assert record.validation_loss[record.best_epoch - 1] == min(record.validation_loss)


class Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = fresh()
    run(whole)
    broken = fresh()
    calls = 0

    def dies(model: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Killed
        return validation_loss(model)

    plan = TrainingPlan(epochs=12, batch_size=32, learning_rate=0.02, seed=3)
    with pytest.raises(Killed):
        train(broken, loss, dies, ROWS, plan, checkpoint=tmp_path)
    resumed = fresh()
    record = train(resumed, loss, validation_loss, ROWS, plan, checkpoint=tmp_path)
    assert record.epochs == 12
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_plan_is_left_alone(tmp_path: Path) -> None:
    run(fresh(), tmp_path, epochs=2)
    record = run(fresh(), tmp_path, epochs=3)
    assert record.epochs == 3
    assert len(record.train_loss) == 3


def test_patience_stops() -> None:
    values = iter([1.0, 0.5, *[2.0] * 50])
    plan = TrainingPlan(epochs=50, batch_size=64, learning_rate=0.01, patience=4)
    record = train(fresh(), loss, lambda model: next(values), ROWS, plan)
    assert (record.best_epoch, record.epochs, record.stopped) == (2, 6, "patience")


def stops_early(cooling_steps: int, checkpoint: Path | None = None) -> tuple[nn.Module, TrainingRecord]:
    """A training whose validation loss is best after the third epoch, where the learning rate is still high."""
    model, values = fresh(), iter([3.0, 2.0, 1.0, 4.0, 4.0])
    plan = TrainingPlan(
        epochs=12, batch_size=32, learning_rate=0.02, seed=3, patience=2, cooling_steps=cooling_steps
    )  # fmt: skip
    return model, train(model, loss, lambda _: next(values), ROWS, plan, checkpoint=checkpoint)


def test_weights_from_the_middle_of_a_schedule_are_cooled_down(tmp_path: Path) -> None:
    plain, plain_record = stops_early(0)
    cooled, record = stops_early(40, tmp_path)
    assert (record.best_epoch, record.stopped) == (3, "patience")
    assert record.steps == plain_record.steps + 40
    assert validation_loss(cooled) < validation_loss(plain)
    resumed, _ = stops_early(40, tmp_path)  # killed while cooling: the checkpoint is that of the last epoch
    assert all(torch.equal(a, b) for a, b in zip(cooled.parameters(), resumed.parameters(), strict=True))


def test_weights_that_have_settled_are_not_cooled_again() -> None:
    plain, cooled = fresh(), fresh()
    assert run(plain).best_epoch == 12
    assert run(cooled, cooling_steps=40).steps == 12 * ROWS // 32
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), cooled.parameters(), strict=True))


def test_max_seconds_stops_with_a_model() -> None:
    record = run(fresh(), epochs=100_000, max_seconds=0.3, patience=10**9)
    assert record.stopped == "max_seconds"
    assert 0 < record.epochs < 100_000


def test_a_loss_that_breaks_never_becomes_the_best() -> None:
    values = iter([1.0, float("nan"), float("nan")])
    record = train(fresh(), loss, lambda model: next(values), ROWS, TrainingPlan(3, 64, 0.01))
    assert record.best_epoch == 1


# ---------------------------------------------------------------- too little memory


class Device:
    """Stands in for a GPU that holds so many rows; `torch.OutOfMemoryError` is what torch raises there."""

    def __init__(self, rows: int) -> None:
        self.rows, self.largest = rows, 0

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        if len(rows) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(rows))
        return nn.functional.mse_loss(model(X[rows]), Y[rows])


def trained_on(device: Device) -> tuple[nn.Module, TrainingRecord]:
    model = fresh()
    return model, train(model, device.loss, validation_loss, ROWS, TrainingPlan(6, 32, 0.02, seed=3))


def test_a_step_that_memory_does_not_hold_is_taken_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    whole, expected = trained_on(Device(ROWS))
    small = Device(9)
    with caplog.at_level("WARNING", "tabvae_core.training"):
        model, record = trained_on(small)
    assert small.largest == 8
    assert (record.steps, record.epochs) == (expected.steps, expected.epochs), "the plan stays"
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert [r.getMessage() for r in caplog.records] == [
        "out of memory with 32 rows at once: going on with 16",
        "out of memory with 16 rows at once: going on with 8",
    ]


def test_memory_that_holds_no_row_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="cpu has too little memory to train on a single row"):
        trained_on(Device(0))


def test_a_resumed_training_says_where_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(fresh(), tmp_path, epochs=2)
    with caplog.at_level("INFO", "tabvae_core.training"):
        run(fresh(), tmp_path, epochs=2)
    assert "resumed from the checkpoint of epoch 2" in caplog.messages


# ---------------------------------------------------------------- tables that still teach much halfway


@pytest.mark.parametrize(
    ("worthwhile", "epochs"), [(0.09, 12), (0.11, 6)], ids=["still teaches much", "has taught most"]
)
def test_epochs_are_doubled_where_the_one_that_ends_the_first_half_brings_enough(
    worthwhile: float, epochs: int
) -> None:
    """Losses fall by 0.5, 0.1 and little more; of six epochs the third ends the first half."""
    values = iter([2.0, 1.5, 1.4, *(1.4 - 0.001 * k for k in range(1, 10))])
    events: list[ProgressEvent] = []
    plan = TrainingPlan(6, 32, 0.02, seed=3, worthwhile=worthwhile)
    record = train(fresh(), loss, lambda _: next(values), ROWS, plan, progress=events.append)
    assert (record.epochs, record.stopped) == (epochs, "epochs")
    ends = [event for event in events if event.done == int(event.done)]
    assert [event.total for event in ends] == [6, 6, *[epochs] * (epochs - 2)]


def test_few_epochs_and_plans_that_do_not_ask_are_not_doubled() -> None:
    for plan in (TrainingPlan(2, 32, 0.02, worthwhile=0.0), TrainingPlan(6, 32, 0.02)):
        values = iter(10.0 - k for k in range(20))
        assert train(fresh(), loss, lambda _, values=values: next(values), ROWS, plan).epochs == plan.epochs


def test_a_resumed_training_is_doubled_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def losses() -> Iterator[float]:
        return iter(10.0 - k for k in range(12))

    plan, whole, values = TrainingPlan(6, 32, 0.02, seed=3, worthwhile=0.5), fresh(), losses()
    train(whole, loss, lambda _: next(values), ROWS, plan)
    broken, resumed, values = fresh(), fresh(), losses()

    def dies(model: nn.Module) -> float:
        value = next(values)
        if value == 10.0 - 4:
            raise Killed
        return value

    with pytest.raises(Killed):
        train(broken, loss, dies, ROWS, plan, checkpoint=tmp_path)
    rest = iter(10.0 - k for k in range(4, 12))
    record = train(resumed, loss, lambda _: next(rest), ROWS, plan, checkpoint=tmp_path)
    assert record.epochs == 12
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
