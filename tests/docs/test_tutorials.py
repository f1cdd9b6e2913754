"""The tutorials and the page on configs, run as their readers run them, but with fewer images and steps."""

from pathlib import Path

import pytest
from paths import ROOT
from tutorials import run_page

DOCS = ROOT / "docs"
# What the commands of each page leave behind, in the folder where they were run.
RESULTS = {
    "configs": ["mine.py"],
    "tutorials/own_images": [
        "runs/quickstart/best.safetensors",
        "drawn/predictions.json",
        "runs/mine/results.json",
        "one.jpg",
    ],
    "tutorials/python": ["runs/shapes/best.safetensors", "runs/dict/best.safetensors", "shapes.jpg"],
    "tutorials/masks_and_points": ["split/weak.json", "runs/points/report.md", "drawn/results.json", "clicked.jpg"],
    "tutorials/matching": [
        "pairs/unlabelled.json",
        "runs/pairs/report.md",
        "matched/matches.jpg",
        "matched_points/matches.json",
    ],
}


@pytest.mark.parametrize("name", RESULTS)
def test_page(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("detkit.pipelines.finetune.start.answers", lambda url: False)
    monkeypatch.setattr("detkit.pipelines.finetune.budget.TIMED", 1)
    run_page(DOCS / f"{name}.md")
    assert [file for file in RESULTS[name] if not Path(file).is_file()] == []


def test_every_tutorial_is_run():
    assert {f"tutorials/{page.stem}" for page in (DOCS / "tutorials").glob("*.md")} <= RESULTS.keys()
