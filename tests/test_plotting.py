"""Figures: one style, shown and saved as the same picture."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from dense import uniform
from PIL import Image

from usrlib import plotting


@pytest.fixture(autouse=True)
def no_figure_left_open():
    with plt.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """What `show` hands to the notebook; its files go to tmp_path / "figures"."""
    calls = []
    monkeypatch.setattr(plotting, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(plotting, "display", lambda data, **rest: calls.append((data, rest["metadata"])))
    return calls


def test_show_writes_the_picture_that_it_shows_with_its_alternative_text(shown, tmp_path):
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot([0, 1])
    plotting.show(figure, "line", "A rising line.")
    [(data, metadata)] = shown
    saved = (tmp_path / "figures" / "line.png").read_bytes()
    assert data == {"image/png": saved, "text/plain": "A rising line."}
    assert metadata == {"image/png": {"alt": "A rising line.", "width": 300}}
    picture = Image.open(io.BytesIO(saved))
    assert picture.mode == "P" and picture.size == (600, 400)
    assert not plt.get_fignums()


def test_pictures_are_shown_pixel_by_pixel(shown, tmp_path):
    figure, _ = plotting.image_grid({"one": torch.rand(1, 3, 40, 40), "two": torch.rand(1, 3, 40, 40)}, columns=3)
    plotting.show(figure, "grid", "Two pictures.")
    [(_, metadata)] = shown
    assert Image.open(tmp_path / "figures" / "grid.png").width == metadata["image/png"]["width"]


def test_encode_png_loses_nothing():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    for level in (1, 9):
        decoded = Image.open(io.BytesIO(plotting.encode_png(picture, level)))
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture))


def drawn(axis):
    """The shape (height, width) of the picture on an axis."""
    return axis.images[0].get_array().shape[:2]


def test_an_image_grid_shows_every_picture_under_its_title():
    plotting.use_style()
    panels = {"x": uniform(1, 3, 24, 36), "y": uniform(1, 1, 8, 12), "z": uniform(1, 3, 24, 36)}
    _, axes = plotting.image_grid(panels)
    assert [axis.get_title() for axis in axes[0]] == ["x", "y", "z"]
    assert [drawn(axis) for axis in axes[0]] == [(24, 36), (8, 12), (24, 36)]


def test_an_image_grid_breaks_into_rows_and_leaves_the_rest_empty():
    _, axes = plotting.image_grid({str(i): uniform(1, 1, 8, 8) for i in range(5)}, columns=3)
    assert axes.shape == (2, 3)
    assert [len(axis.images) for axis in axes.flat] == [1, 1, 1, 1, 1, 0]


def test_zoom_shows_the_same_part_of_the_scene_for_pictures_of_mixed_sizes():
    x = uniform(1, 3, 24, 36)
    _, axes = plotting.image_grid({"x": x, "y": x[..., ::3, ::3]}, zoom=(6, 9, 12))
    scene = x[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(axes[1, 0].images[0].get_array(), scene[6:18, 9:21])
    np.testing.assert_allclose(axes[1, 1].images[0].get_array(), scene[::3, ::3][2:6, 3:7])


def test_zoom_with_columns_keeps_every_picture():
    _, axes = plotting.image_grid({str(i): uniform(1, 1, 12, 12) for i in range(4)}, zoom=(0, 0, 6), columns=2)
    assert axes.shape == (2, 4) and all(len(axis.images) == 1 for axis in axes.flat)


@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 5, 5), (1, 1, 6, 4)])
def test_a_kernel_is_drawn_with_zero_in_the_middle_of_its_colours_and_its_centre_marked(shape):
    _, axis = plt.subplots()
    k = uniform(*shape) - 0.2
    picture = plotting.draw_kernel(axis, k)
    np.testing.assert_array_equal(picture.get_array(), k.reshape(shape[-2:]))
    low, high = picture.get_clim()
    assert low == -high and high > 0
    assert axis.lines[0].get_xydata().tolist() == [[shape[-1] // 2, shape[-2] // 2]]


def test_the_spectrum_of_a_picture_is_drawn_of_the_mean_of_its_channels():
    x = uniform(1, 3, 12, 10)
    _, axis = plt.subplots()
    picture = plotting.draw_spectrum(axis, x)
    np.testing.assert_allclose(picture.get_array(), plotting.log_magnitude(torch.fft.fft2(x.sum(1) / 3)))


def test_the_log_magnitude_spans_five_decades_with_frequency_zero_in_the_middle():
    spectrum = torch.full((4, 4), 1e-9, dtype=torch.complex128)
    spectrum[0, 0], spectrum[0, 1], spectrum[1, 0] = 10, 0.1, 0
    picture = plotting.log_magnitude(spectrum)
    assert picture[2, 2] == 1 and picture[2, 3].item() == pytest.approx(0.6) and picture[3, 2] == 0
    assert plotting.log_magnitude(torch.zeros(4, 4, dtype=torch.complex128)).isfinite().all()


@pytest.mark.parametrize("channels, shape", [(1, (4, 6)), (3, (4, 6, 3))])
def test_a_picture_is_clipped_and_its_channels_come_last(channels, shape):
    x = 4 * uniform(1, channels, 4, 6) - 2
    picture = plotting.as_picture(x)
    assert picture.shape == shape
    for channel in range(channels):
        np.testing.assert_array_equal(np.atleast_3d(picture)[..., channel], x[0, channel].clamp(0, 1))


@pytest.mark.parametrize("side", [(1, 6), (6, 1), (1, 1)])
def test_a_picture_one_pixel_wide_stays_a_picture(side):
    assert plotting.as_picture(uniform(1, 1, *side)).shape == side
