"""Still pictures of an evaluation."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tabvae_core.evaluation.pictures import MAX_COLUMNS, association_picture, column_picture
from tabvae_core.evaluation.result import ColumnEvaluation, Evaluation, Pairs, RowCounts, Verdict
from tabvae_core.spec import Kind

SVG = "{http://www.w3.org/2000/svg}"


def evaluation(jsd: dict[str, float], pairs: Pairs | None = None) -> Evaluation:
    columns = tuple(
        ColumnEvaluation(
            name=name, kind=Kind.NUMBER, modelled=True, jsd=value, jsd_floor=0.05, nulls_real=0, nulls_synthetic=0
        )
        for name, value in jsd.items()
    )
    return Evaluation(
        rows=RowCounts(holdout=10, synthetic=10),
        max_rows=10,
        seed=0,
        columns=columns,
        pairs=pairs or Pairs(),
        verdict=Verdict(sentence="Close."),
    )


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in parsed(picture).iter(f"{SVG}text")]


def test_bars_are_as_long_as_distances_and_the_worst_comes_first() -> None:
    picture = column_picture(evaluation({"small": 0.1, "<large> & odd": 0.4}))
    assert [text for text in texts(picture)[1:] if not text[0].isdigit()] == ["<large> & odd", "small"]
    widths = [float(r.get("width", "")) for r in parsed(picture).iter(f"{SVG}rect") if r.get("fill") == "#e0701a"]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)


def test_a_pair_is_the_darker_the_more_it_differs() -> None:
    pairs = Pairs(
        columns=("a", "b", "c"),
        real=((1, 0.9, 0.1), (0.9, 1, 0), (0.1, 0, 1)),
        synthetic=((1, 0.2, 0.1), (0.2, 1, 0), (0.1, 0, 1)),
    )
    picture = association_picture(evaluation({}, pairs))
    shades = {
        rect[0].text: float(rect.get("fill-opacity", ""))
        for rect in parsed(picture).iter(f"{SVG}rect")
        if rect.get("fill-opacity")
    }
    assert shades == {"b and a: 0.70": 0.7, "c and a: 0.00": 0.0, "c and b: 0.00": 0.0}
    assert "largest here 0.70" in texts(picture)[0]


def test_wide_tables_give_small_pictures() -> None:
    names = tuple(f"column {k} with a name that is long" for k in range(40))
    matrix = tuple(tuple(0.5 for _ in names) for _ in names)
    found = evaluation(dict.fromkeys(names, 0.2), Pairs(columns=names, real=matrix, synthetic=matrix))
    for picture in (column_picture(found), association_picture(found)):
        assert len(picture) < 60_000
        assert len([text for text in texts(picture) if text.startswith("column ")]) == MAX_COLUMNS
        assert f"the {MAX_COLUMNS} of 40 columns" in texts(picture)[0]


def test_nothing_measured_is_no_picture() -> None:
    assert column_picture(evaluation({})) == ""
    assert association_picture(evaluation({"a": 0.1})) == ""
