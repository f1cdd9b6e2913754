import io

from detkit import console
from detkit.console import Console, format_seconds


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_with_the_time_left(monkeypatch):
    now = iter([100.0, *[110.0] * 9])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    stream = Terminal()
    Console(stream).progress(0.25, "evaluation 1/4")
    assert "[#####...............] evaluation 1/4, 0:30 left" in stream.getvalue()


def test_elsewhere_a_line_comes_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    out = Console(stream)
    for step in range(1, 101):
        now[0] = float(step)
        out.progress(step / 100, f"{step}/100")
    assert stream.getvalue().splitlines() == [f"{s}/100, {format_seconds(100 - s)} left" for s in (20, 40, 60, 80, 100)]


def test_nothing_goes_to_no_stream():
    out = Console(None)
    out.line("x")
    out.progress(0.5, "x")
    out.clear()


def test_seconds():
    assert [format_seconds(s) for s in (5, 65, 3600 + 61)] == ["0:05", "1:05", "1:01:01"]
