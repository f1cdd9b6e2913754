import http.server
import io
import os
import threading

import numpy as np
import pytest
import torch
from blob_finder import BlobFinder, picture
from PIL import Image

from detkit.modeling.sources import find_images, sources_of
from detkit.structures import Annotations, Batch

WHITE = (4, 4, 30, 10)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    pixels = picture(40, 50, WHITE).permute(1, 2, 0).numpy()
    for name in ("b.png", "a.png", "sub/c.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


def test_paths_globs_and_folders(folder, monkeypatch):
    model = BlobFinder(50).eval()
    files = [str(folder / name) for name in ("a.png", "b.png", "sub/c.png")]
    assert [found.source for found in model.predict(folder)] == files
    assert [found.source for found in model.predict(f"{folder}/*.png")] == files[:2]
    assert [found.source for found in model.predict(f"{folder}/**/*.png")] == files
    monkeypatch.chdir(folder)
    assert [found.source for found in model.predict(["a.png", "sub"])] == ["a.png", "sub/c.png"]
    (found,) = model.predict("a.png")
    assert found.size == (40, 50) and found.boxes.tolist() == [[*map(float, WHITE)]]


def test_a_file_with_the_name_of_a_pattern_is_a_file(folder):
    os.rename(folder / "a.png", folder / "[a].png")
    assert [found.source for found in BlobFinder(50).eval().predict(folder / "[a].png")] == [str(folder / "[a].png")]


def test_images_in_memory_and_iterators_of_everything(folder):
    pixels = picture(40, 50, WHITE)
    array = pixels.permute(1, 2, 0).numpy()
    images = [Image.fromarray(array), array, pixels, array[:, :, 0], (folder / "a.png", [pixels])]
    found = BlobFinder(50).eval().predict(iter(images))
    assert len(found) == 6 and {one.source for one in found} == {None, str(folder / "a.png")}
    assert all(one.boxes.tolist() == [[*map(float, WHITE)]] for one in found)


def test_a_stream_reads_one_image_after_the_other():
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield picture(40, 50, WHITE)

    stream = BlobFinder(50).eval().predict(endless(), batch_size=2, stream=True)
    assert asked == []
    assert len(next(stream)) == len(next(stream)) == 1 and len(asked) == 2
    next(stream)
    assert len(asked) == 4


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nothing/*.jpg", r"nothing matches nothing/\*\.jpg"),
        ("missing.jpg", r"missing\.jpg"),
        (None, "not an image: NoneType"),
        ({"image": 1}, "not an image: dict"),
        ([3], "not an image: int"),
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg is a URL"),
    ],
)
def test_what_is_no_image_is_named(images, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        BlobFinder(50).eval().predict(images)


def test_a_folder_or_pattern_without_images(folder):
    (folder / "empty").mkdir()
    for path in (folder / "empty", f"{folder}/*.txt"):
        with pytest.raises(ValueError, match="no images"):
            list(sources_of(path))
    assert len(find_images([f"{folder}/*"])) == 3


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kind, content = self.pages[self.path.partition("?")[0]]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    file = io.BytesIO()
    Image.fromarray(picture(40, 50, WHITE).permute(1, 2, 0).numpy()).save(file, format="PNG")
    whole = file.getvalue()
    pages = {
        "/photo.png": ("image/png", whole),
        "/photo": ("application/octet-stream", whole),
        "/page": ("text/html", b"<html>"),
        "/weights.pt": ("application/octet-stream", b"PK\x03\x04" + b"x" * 50),
        "/torn.png": ("image/png", whole[: len(whole) // 2]),
    }
    handler = type("Handler", (Pages,), {"pages": pages})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_images_of_urls_are_fetched_and_not_kept(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    urls = [f"{server}/photo.png", f"{server}/photo?size=2"]
    found = BlobFinder(50).eval().predict(urls)
    assert [one.source for one in found] == urls and all(len(one) == 1 for one in found)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("page", "is an HTML page, not an image: take the address of the image itself"),
        ("weights.pt", "cannot use .*weights.pt: what came is no image"),
        ("torn.png", r"cannot read image http://127.0.0.1:\d+/torn.png: "),
    ],
)
def test_what_is_no_image_behind_a_url(server, page, message):
    with pytest.raises(ValueError, match=message):
        BlobFinder(50).eval().predict(f"{server}/{page}")


def test_an_image_may_not_have_any_size(server, monkeypatch):
    monkeypatch.setenv("DETKIT_MAX_DOWNLOAD_GB", "0.00000001")
    with pytest.raises(ValueError, match=r"cannot download .*DETKIT_MAX_DOWNLOAD_GB allows more"):
        BlobFinder(50).eval().predict(f"{server}/photo.png")


def test_scores_classes_and_thresholds():
    model, image = BlobFinder(50).eval(), picture(64, 64, (4, 4, 30, 10), (40, 4, 46, 40))
    assert model.classes == ("thin", "tall") and model.thresholds is None
    assert len(model.predict(image)[0]) == 2 and len(model.predict(image, min_score=0.95)[0]) == 0
    assert model.predict(image, classes=["tall"])[0].names() == ["tall"]
    with pytest.raises(ValueError, match="the model has no class 'tal', did you mean 'tall'"):
        model.predict(image, classes=["tal"])
    with pytest.raises(ValueError, match="the model has no class 'dog'; it knows thin, tall"):
        model.predict(image, classes=["dog"])
    with pytest.raises(ValueError, match="min_score must be a number, got 'high'"):
        model.predict(image, min_score="high")
    model.score = 0.2
    assert len(model.predict(image)[0]) == 0 and len(model.predict(image, min_score=0)[0]) == 2
    nothing = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert len(model(Batch.collate([(image, nothing)]))[0]) == 2  # evaluation sees all
    model.thresholds = {"tall": 0.1}
    assert model.predict(image)[0].names() == ["tall"]
    model.score, model.thresholds = 0.9, {"thin": 0.95, "tall": 0.5}
    assert model.predict(image)[0].names() == ["tall"]
    assert len(model.predict(image, min_score=np.float32(0))[0]) == 2
    assert torch.equal(model.predict(np.zeros((8, 8, 3), dtype=np.uint8))[0].labels, torch.zeros(0, dtype=torch.int64))
