"""`detkit predict` with a video."""

import numpy as np
import pytest
from blob_finder import BlobFinder, picture
from PIL import Image

av = pytest.importorskip("av")

from detkit.inference import video  # noqa: E402
from detkit.inference.images import Options  # noqa: E402

FRAMES = 12


def film(path, frames=FRAMES, size=(64, 95), **options):
    """A white bar that moves to the right, 10 frames a second."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = size[0], size[1] // 2 * 2, "yuv420p"
        for i in range(frames):
            pixels = picture(*size, (4 + 2 * i, 20, 44 + 2 * i, 30)).permute(1, 2, 0).numpy()
            frame = np.ascontiguousarray(pixels[:, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_is_drawn_at_its_time(tmp_path, suffix):
    out = tmp_path / "new" / f"drawn{suffix}"
    summary = video.predict_video(BlobFinder(96).eval(), film(tmp_path / "film.mp4"), out)
    assert (summary.images, summary.objects) == (FRAMES, FRAMES) and summary.speed().endswith(" frames/s")
    plain, drawn = ([*video.read_frames(path)] for path in (tmp_path / "film.mp4", out))
    assert len(drawn) == FRAMES and drawn[0].shape == plain[0].shape == (3, 64, 94)
    assert all((a.float() - b.float()).abs().mean() > 2 for a, b in zip(plain, drawn, strict=True))
    with av.open(str(out)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(FRAMES) / 10, atol=0.002)


def test_options_and_frames_in_python(tmp_path):
    summary = video.predict_video(
        BlobFinder(96).eval(), film(tmp_path / "film.mp4"), tmp_path / "drawn.mp4", Options(classes=["tall"])
    )
    assert summary.objects == 0 and "the best is 0.9" in summary.hint(0.3)
    found = BlobFinder(96).eval().predict(video.read_frames(tmp_path / "film.mp4"), stream=True)
    assert [len(one) for one in found] == [1] * FRAMES


def torn(path, share, **options):
    content = film(path, frames=60, **options).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def broken_files(folder):
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    picture_file = folder / "image.mp4"
    Image.new("RGB", (8, 8)).save(picture_file, format="PNG")
    return {
        "text.mp4": "cannot read video .*text.mp4: Invalid data",
        "empty.mp4": "cannot read video .*empty.mp4: ",
        "missing.mp4": "missing.mp4 does not exist",
        torn(folder / "torn.mp4", 0.6).name: "cannot read video .*torn.mp4: ",
        torn(folder / "torn.mkv", 0.6).name: r"it ends after \d.\d of 6.0 seconds, as if cut off",
        torn(folder / "fast.mp4", 0.6, movflags="faststart").name: "cannot read video .*fast.mp4: ",
    }


def test_broken_videos_end_in_one_line_and_leave_nothing(tmp_path):
    model = BlobFinder(96).eval()
    for name, message in broken_files(tmp_path).items():
        with pytest.raises(ValueError, match=message) as raised:
            video.predict_video(model, tmp_path / name, tmp_path / "out" / "drawn.mp4")
        assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    model = BlobFinder(96).eval()
    monkeypatch.setattr(model, "detect", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        video.predict_video(model, film(tmp_path / "film.mp4"), tmp_path / "out" / "drawn.mp4")
    assert [*(tmp_path / "out").iterdir()] == []


def test_only_drawn_videos_are_replaced(tmp_path):
    model, source = BlobFinder(96).eval(), film(tmp_path / "film.mp4")
    for suffix in (*video.FORMATS, *video.FORMATS):
        video.predict_video(model, source, tmp_path / f"drawn{suffix}")
    before = source.read_bytes()
    for out in (source, film(tmp_path / "other.mp4")):
        with pytest.raises(ValueError, match="would be overwritten"):
            video.predict_video(model, source, out)
    assert source.read_bytes() == before


def test_where_the_drawn_video_goes(tmp_path):
    source = tmp_path / "film.MOV"
    assert video.is_video(source) and not video.is_video("photo.jpg")
    assert video.drawn_video(source, tmp_path / "drawn.mkv") == tmp_path / "drawn.mkv"
    assert video.drawn_video(source, tmp_path / "folder") == tmp_path / "folder" / "film.mp4"
    with pytest.raises(ValueError, match=r"drawn.webm: videos are written as .mp4"):
        video.drawn_video(source, tmp_path / "drawn.webm")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r'needs PyAV: pip install "detkit\[video\]"'):
        video.predict_video(BlobFinder().eval(), tmp_path / "film.mp4", tmp_path / "drawn.mp4")
