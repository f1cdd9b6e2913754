"""Published models by name, from a server on this machine that has files as the authors' code writes them."""

import argparse
import io
import urllib.parse

import numpy as np
import pytest
import torch
import vidt_golden
from file_server import file_server
from PIL import Image
from processes import run_process, wait_for

import detkit
from detkit.backbones.pretrained import read_state_dict
from detkit.checkpoints.published import converted_path
from detkit.checkpoints.weights import CheckpointError, read_header
from detkit.cli import main
from detkit.download.fetch import DownloadError, cached_name
from detkit.download.published import PUBLISHED

NAME = "vidt_plus_swin_nano"


def official_file(golden):
    """The bytes of an official checkpoint with the weights of a golden, and what else the authors' code stores."""
    buffer = io.BytesIO()
    weights = vidt_golden.state_dict(vidt_golden.load(golden)[0])
    torch.save({"model": weights, "epoch": 49, "args": argparse.Namespace(lr=1e-4, backbone_name="swin_nano")}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def plus_nano():
    return official_file("vidt_plus_nano")


def place(name):
    """The path under which a mirror has a published model."""
    return urllib.parse.urlsplit(PUBLISHED[name].url).path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mirror(monkeypatch, cache, plus_nano):
    with file_server(monkeypatch) as server:
        monkeypatch.setenv("DETKIT_MIRROR", server.url)
        server.files[place(NAME)] = plus_nano
        yield server


def test_a_name_is_downloaded_converted_and_kept(mirror, cache, capsys):
    model = detkit.load(NAME)
    golden, _ = vidt_golden.load("vidt_plus_nano")
    expected = vidt_golden.state_dict(golden)
    assert torch.equal(model.class_embed[0].weight, expected["class_embed.0.weight"])
    assert model.backbone.num_tokens == 300 and model.label_map.names[18] == "dog"
    assert f"downloading {PUBLISHED[NAME].url}" in capsys.readouterr().err
    path = converted_path(PUBLISHED[NAME])
    assert (
        path == cache / "models" / f"{NAME}.safetensors" and read_header(NAME)["converted_from"] == PUBLISHED[NAME].url
    )
    names = {file.relative_to(cache).as_posix() for file in cache.rglob("*") if file.is_file()}
    download = cached_name(PUBLISHED[NAME].url)
    assert names == {f"{n}{end}" for n in (download, f"models/{NAME}.safetensors") for end in ("", ".sha256")}
    detkit.load("vidt_plus_swin_n")  # its short name
    assert mirror.requested == [place(NAME)]


def test_a_damaged_conversion_is_made_again(mirror, cache, caplog):
    detkit.load(NAME)
    path = converted_path(PUBLISHED[NAME])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    detkit.load(NAME)
    assert "was damaged or altered: it is made again" in caplog.text and mirror.requested == [place(NAME)]


def test_another_file_under_the_name_is_refused(mirror, cache):
    detkit.load(NAME)
    mirror.files[place(NAME)] = official_file("vidt_nano")
    converted_path(PUBLISHED[NAME]).unlink()
    (cache / cached_name(PUBLISHED[NAME].url)).unlink()
    with pytest.raises(DownloadError, match="is another file than at its first download"):
        detkit.load(NAME)


def test_of_several_processes_one_converts(mirror, cache, tmp_path):
    logs = [tmp_path / f"{number}.log" for number in range(2)]
    assert wait_for([run_process(lambda: detkit.load(NAME), log) for log in logs]) == [0, 0]
    assert mirror.requested == [place(NAME)]


@pytest.mark.filterwarnings("ignore")
def test_every_command_takes_names(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((48, 64, 3), 90, np.uint8)).save("photo.png")
    optimized = f"{NAME}_optimized"
    mirror.files[place(optimized)] = mirror.files[place(NAME)]
    assert main(["predict", NAME, "photo.png", "--out", "drawn", "--device", "cpu"]) == 0
    assert (tmp_path / "drawn" / "photo.jpg").is_file()
    assert main(["benchmark", optimized, "--dry-run", "--device", "cpu"]) == 0
    assert main(["drop-layers", NAME, "fewer.safetensors", "--keep", "1"]) == 0
    small = "data.val={'type':'SyntheticScenes','length':1,'size':64}"
    assert main(["evaluate", NAME, "--device", "cpu", "--set", small, "data.workers=0"]) == 2  # other classes: it loads
    assert "category ids mean different classes" in capsys.readouterr().err
    (tmp_path / NAME).mkdir()  # what exists counts before names
    assert main(["predict", NAME, "photo.png", "--out", "drawn", "--device", "cpu"]) == 2
    assert "holds no best.safetensors" in capsys.readouterr().err


def test_training_starts_from_a_name(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    words = f"train {NAME} --out {tmp_path / 'run'} --set train.init_from={NAME} model.backbone.pretrained=none".split()
    data = "{'type':'SyntheticScenes','length':1,'size':64,'masks':True}"
    words += [f"data.train={data}", "data.val=none", "data.transforms=[]", "data.batch_size=1", "data.workers=0"]
    assert main([*words, "train.max_steps=1", "train.device=cpu", "train.tensorboard=false"]) == 0
    printed = capsys.readouterr().out
    assert f"initial weights from {NAME}:" in printed and "backbone.*" in printed


def test_what_cannot_be_had_says_what_to_do(cache, monkeypatch):
    monkeypatch.setenv("DETKIT_MIRROR", "http://127.0.0.1:1")
    with pytest.raises(DownloadError) as error:
        detkit.load(NAME)
    message, url = str(error.value), PUBLISHED[NAME].url
    assert f"cannot download {url}, asked for at http://127.0.0.1:1/naver-ai/vidt/" in message
    assert f"put the file at {cache / cached_name(url)}, or let DETKIT_MIRROR name a host that has it" in message
    monkeypatch.setenv("DETKIT_MIRROR", "files.example.org")
    with pytest.raises(ValueError, match="DETKIT_MIRROR must begin with http:// or https://, got 'files"):
        detkit.load(NAME)


def test_the_authors_file_may_be_put_into_the_cache_by_hand(cache, monkeypatch, plus_nano):
    monkeypatch.setenv("DETKIT_MIRROR", "http://127.0.0.1:1")
    cache.mkdir()
    (cache / cached_name(PUBLISHED[NAME].url)).write_bytes(plus_nano)
    assert detkit.load(NAME).backbone.num_tokens == 300


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vidt_plus_swin_nan", "nor a published model, did you mean 'vidt_plus_swin_nano'.*list models"),
        (
            "elephant",
            "elephant is neither a file, nor the folder of a run, nor a published model; `detkit list models`",
        ),
        ("swin_tiny", "is a body, not a whole model: name it as model.backbone.pretrained"),
        ("elephant.safetensors", "checkpoint elephant.safetensors does not exist"),
    ],
)
def test_other_names(cache, name, message):
    with pytest.raises(CheckpointError, match=message):
        detkit.load(name)


def test_bodies_by_name(mirror, cache, tmp_path):
    stored = io.BytesIO()
    torch.save({"model": {"norm.weight": torch.ones(3)}}, stored)
    mirror.files[place("swin_nano")] = stored.getvalue()
    assert torch.equal(read_state_dict("swin_nano")["norm.weight"], torch.ones(3))
    assert mirror.requested == [place("swin_nano")]
