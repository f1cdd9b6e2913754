from detkit.reports.parts.charts import bar_chart, line_chart


def test_long_names_leave_room_for_the_chart(recwarn):
    chart = line_chart({"a" * 150: ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])}, "x", "y")
    assert "a" * 29 + "…" in chart and "a" * 30 not in chart and not recwarn.list


def test_names_of_bars_are_broken_into_lines():
    chart = bar_chart({"wrong class and place": 1, "missed": 2}, "y")
    assert "wrong class and place" not in chart.split("<text")[1] and "missed" in chart and ">and place<" in chart
