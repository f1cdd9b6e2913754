from detkit.checkpoints.folding import fold


def shown(outcomes):
    return [(row.pattern, row.outcome, len(row.names)) for row in fold(outcomes)]


def test_modules_and_numbers_are_folded():
    outcomes = {f"a.{i}.{part}.{name}": "kept" for i in range(6) for part in "xy" for name in ("weight", "bias")}
    assert shown(outcomes) == [("a.*", "kept", 24)]
    outcomes |= {f"a.{i}.x.weight": "new" for i in (0, 1, 2, 5)}
    assert shown(outcomes) == [
        ("a.{0-2,5}.x.weight", "new", 4),
        ("a.{0-2,5}.x.bias", "kept", 4),
        ("a.{0-2,5}.y.*", "kept", 8),
        ("a.{3-4}.*", "kept", 8),
    ]


def test_every_name_is_in_one_row_and_single_names_stay():
    outcomes = {"token": "partly", "norm": "left out", "norm.weight": "new", "b.0.w": "kept", "b.1.w": "new"}
    rows = fold(outcomes)
    assert [row.pattern for row in rows] == list(outcomes)
    assert all(outcomes[name] == row.outcome for row in rows for name in row.names)
    assert fold({}) == []
