import pytest
import torch

from detkit.ops.dct import dct_basis, decode_dct, encode_dct, zigzag


def test_zigzag_of_a_small_matrix():
    rows, columns = zigzag(3, 9)
    assert list(zip(rows, columns, strict=True)) == [
        (0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (1, 2), (2, 1), (2, 2)
    ]  # fmt: skip
    assert zigzag(3, 4) == (rows[:4], columns[:4])
    with pytest.raises(ValueError, match="cannot keep 10 coefficients of a 3 x 3"):
        zigzag(3, 10)


def test_the_basis_is_orthonormal():
    basis = dct_basis(16, 16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16), rtol=0, atol=1e-5)


def test_coefficients_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    images = torch.rand(2, 3, 32, 32)
    rows, columns = zigzag(32, 50)
    expected = torch.stack([torch.from_numpy(cv2.dct(image.numpy())) for image in images.flatten(0, 1)])
    torch.testing.assert_close(encode_dct(images, 50), expected[:, rows, columns].view(2, 3, 50), rtol=1e-4, atol=1e-4)


def test_all_coefficients_restore_the_image_and_few_blur_it():
    images = torch.rand(4, 16, 16)
    torch.testing.assert_close(decode_dct(encode_dct(images, 256), 16), images, rtol=1e-4, atol=1e-4)
    blurred = decode_dct(encode_dct(images, 10), 16)
    torch.testing.assert_close(blurred.mean((1, 2)), images.mean((1, 2)))
    assert (blurred.var((1, 2)) < images.var((1, 2))).all()


def test_a_bool_mask_and_a_constant():
    vectors = encode_dct(torch.ones(1, 8, 8, dtype=torch.bool), 3)
    torch.testing.assert_close(vectors, torch.tensor([[8.0, 0.0, 0.0]]), rtol=0, atol=1e-5)
    assert encode_dct(torch.zeros(0, 8, 8), 3).shape == (0, 3) and decode_dct(torch.zeros(0, 3), 8).shape == (0, 8, 8)
