from __future__ import annotations

import torch

from tabvae_core.models.additive import MOST_VALUED, AdditiveModel

ROWS, FREQUENCIES = 3_000, 4


def fitted() -> AdditiveModel:
    """Three slots: a token of two, a number, and a number that follows from both."""
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(0, 2, (ROWS,), generator=generator)
    first = torch.randn(ROWS, generator=generator)
    last = 0.5 * first + token - 0.5 + 0.01 * torch.randn(ROWS, generator=generator)
    x = torch.stack([first, last], dim=1)
    angles = x.unsqueeze(-1) * (torch.pi / 4 * 2.0 ** torch.arange(FREQUENCIES))
    features = torch.cat([x.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1)
    flat = torch.stack([token, torch.full((ROWS,), 2), torch.full((ROWS,), 3)], dim=1)
    model = AdditiveModel(4, 2, 2, FREQUENCIES)
    values = torch.cat([torch.zeros(ROWS, 1), x], dim=1)
    known = torch.tensor([False, True, True]).expand(ROWS, 3)
    model.fit(flat, features, values, known, torch.tensor([1, 2]), torch.tensor([1, 2]), torch.tensor([0, 2, 3]))
    guesses = model(flat, features)
    assert float((guesses[:, 1] - last).std()) < 0.02
    return model


def test_what_follows_from_earlier_cells_is_guessed_in_a_small_unit() -> None:
    model = fitted()
    assert 0.005 < float(model.scale[1]) < 0.05
    assert 0.8 < float(model.scale[0]) < 1.2, "the first number follows from nothing"


def test_later_slots_have_no_effect() -> None:
    model = fitted()
    assert not bool(model.by_value[1].any()), "nothing follows from the last slot"
    assert not bool(model.by_value[0][:, 0].any()), "a number does not follow from itself"


def test_step_by_step_adds_up_to_the_whole() -> None:
    model = fitted()
    features = torch.randn(7, 2, 2 * FREQUENCIES + 1)
    flat = torch.tensor([[1, 2, 3]]).expand(7, 3)
    total = model.start + model.step(flat[:, 0], None, -1)
    total = total + model.step(flat[:, 1], features[:, 0], 0) + model.step(flat[:, 2], features[:, 1], 1)
    assert torch.allclose(total, model(flat, features), atol=1e-6)


def test_wide_tables_do_without() -> None:
    model = AdditiveModel(1_000, MOST_VALUED + 1, MOST_VALUED + 1, FREQUENCIES)
    assert model.by_token.numel() == 0
    assert torch.equal(model.step(torch.zeros(5, dtype=torch.long), None, -1), torch.zeros(5, MOST_VALUED + 1))
