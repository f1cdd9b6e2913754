"""Long lists of tensor names, shortened by module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class FoldedRow(NamedTuple):
    """Names that share an outcome. `pattern`: `a.*` is all below module a, `a.{0-2}.b` is a.0.b, a.1.b and a.2.b."""

    pattern: str
    outcome: str
    names: list[str]


def fold(outcomes: Mapping[str, str]) -> list[FoldedRow]:
    """Shorten `outcomes` (name: outcome) to few rows, in its order.

    Names below a module become one row if all have the same outcome; then rows that differ in one number only are
    joined.
    """
    rows = _fold_modules([(name.split("."), name) for name in outcomes], outcomes, depth=0)
    for position in range(max((len(parts) for parts, _ in rows), default=0)):
        rows = _fold_numbers(rows, outcomes, position)
    return [FoldedRow(".".join(parts), outcomes[names[0]], names) for parts, names in rows]


_Folded = tuple[list[str], list[str]]  # the parts of a pattern, the names that it stands for


def _fold_modules(names: Sequence[tuple[list[str], str]], outcomes: Mapping[str, str], depth: int) -> list[_Folded]:
    children: dict[str | None, list[tuple[list[str], str]]] = {}
    for parts, name in names:
        children.setdefault(parts[depth] if depth < len(parts) else None, []).append((parts, name))
    rows: list[_Folded] = []
    for below in children.values():
        parts = below[0][0]
        if len(below) == 1:
            rows.append((parts, [below[0][1]]))
        elif len({outcomes[name] for _, name in below}) == 1:
            rows.append(([*parts[: depth + 1], "*"], [name for _, name in below]))
        else:
            rows += _fold_modules(below, outcomes, depth + 1)
    return rows


def _fold_numbers(rows: Sequence[_Folded], outcomes: Mapping[str, str], position: int) -> list[_Folded]:
    alike: dict[tuple, list[_Folded]] = {}
    for parts, names in rows:
        is_number = position < len(parts) and parts[position].isdigit()
        rest = (*parts[:position], None, *parts[position + 1 :]) if is_number else tuple(parts)
        alike.setdefault((rest, outcomes[names[0]]), []).append((parts, names))
    return [_join(group, position) for group in alike.values()]


def _join(group: Sequence[_Folded], position: int) -> _Folded:
    parts = list(group[0][0])
    if len(group) > 1:
        parts[position] = "{" + _ranges(sorted(int(other[position]) for other, _ in group)) + "}"
    return parts, [name for _, names in group for name in names]


def _ranges(numbers: Sequence[int]) -> str:
    """ "0-2,5" of 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
