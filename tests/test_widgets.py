"""The explorers: at the extremes of every control they show finite pictures and say something about them."""

import base64
import io
import itertools

import ipywidgets
import numpy as np
import pytest
import torch
from dense import uniform
from PIL import Image

from usrlib import images, widgets

EXPLORERS = {
    "degradation": widgets.degradation,
    "kernel_estimation": widgets.kernel_estimation,
    "splitting": widgets.splitting,
    "data_step": widgets.data_step,
    "unfolding": widgets.unfolding,
    "turned_beta": widgets.turned_beta,
    "mismatch": widgets.mismatch,
    "by_hand": lambda: widgets.by_hand(images.sample("coffee", 32, (100, 300)), 2),
}
each_explorer = pytest.mark.parametrize("name", EXPLORERS)


def extremes(control):
    """The ends of a slider, or all options."""
    return [control.min, control.max] if hasattr(control, "min") else list(control.options)


@each_explorer
def test_every_combination_of_extremes_gives_finite_pictures_and_a_readout(name):
    explorer = EXPLORERS[name]()
    for values in itertools.product(*map(extremes, explorer.controls.values())):
        parameters = dict(zip(explorer.controls, values, strict=True))
        panels, readout = explorer.compute(**parameters)
        for title, x in panels.items():
            where = f"{title!r} at {parameters}"
            assert x.ndim == 4 and x.shape[0] == 1 and x.shape[1] in (1, 3), where
            assert torch.isfinite(x).all() and x.max() > 0 and x.min() < 1, where
        assert len(readout) > 20 and "nan" not in readout and "inf" not in readout, (readout, parameters)


@each_explorer
def test_every_control_changes_the_picture(name):
    explorer = EXPLORERS[name]()
    for parameter, control in explorer.controls.items():
        seen = set()
        # a motion seed does nothing to a Gaussian, and the other way round
        for kind in explorer.controls["kind"].options if "kind" in explorer.controls else [None]:
            if kind:
                explorer.controls["kind"].value = kind
            if parameter == "angle":
                explorer.controls["stretch"].value = 2.0
            initial = control.value
            for value in extremes(control):
                control.value = value
                panels, _ = explorer.compute(**{key: one.value for key, one in explorer.controls.items()})
                seen.add((kind, b"".join(x.numpy().tobytes() for x in panels.values())))        # and not its words
            control.value = initial
        assert len(seen) > len({kind for kind, _ in seen}), parameter


@each_explorer
def test_returning_a_control_returns_the_picture(name):
    explorer = EXPLORERS[name]()
    first = explorer.picture.value
    control = next(c for c in explorer.controls.values() if hasattr(c, "min"))
    value = control.value
    control.value = control.max
    assert explorer.picture.value != first
    control.value = value
    assert explorer.picture.value == first


@each_explorer
def test_an_explorer_shows_a_widget_a_picture_and_text(name):
    explorer = EXPLORERS[name]()
    bundle = explorer._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.face.model_id
    assert bundle["text/plain"] == explorer.readout.value
    poster = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    live = Image.open(io.BytesIO(explorer.picture.value))
    assert poster.size == live.size == explorer.canvas.size
    difference = np.asarray(poster.convert("RGB"), float) - np.asarray(live, float)
    assert np.abs(difference).mean() < 8                    # the poster has 256 colours


def test_a_photograph_without_a_middle_is_refused():
    with pytest.raises(ValueError, match=r"y must be more than 12 pixels .* got \(1, 3, 30, 12\)"):
        widgets.by_hand(torch.rand(1, 3, 30, 12), 2)


def flat(grey):
    return torch.full((1, 1, 8, 8), grey)


def test_frames_leaf_through_results_computed_before():
    explorer = widgets.frames([({"a": flat(0.2)}, "first"), ({"a": flat(0.8)}, "second")])
    assert explorer.readout.value == "first"
    before = explorer.picture.value
    explorer.controls["frame"].value = 2
    assert explorer.readout.value == "second" and explorer.picture.value != before


def test_an_explorer_follows_its_slider_at_once_or_on_release():
    for continuous in (True, False):
        slider = ipywidgets.FloatSlider(value=0.5, min=0, max=1)
        explorer = widgets.Explorer(lambda grey: ({"a": flat(grey)}, f"grey {grey:.2f}"), {"grey": slider}, continuous)
        assert slider.continuous_update is continuous
        slider.value = 0.25
        assert explorer.readout.value == "grey 0.25"


def test_panels_are_painted_side_by_side_enlarged_by_whole_factors():
    small, large = uniform(1, 1, 60, 50), uniform(1, 3, 240, 100)
    canvas = np.asarray(widgets.paint({"small": small, "large": large}))
    assert canvas.shape[1] == 4 * 50 + 8 + 100
    np.testing.assert_array_equal(canvas[-240::4, 0:200:4, 0], (small[0, 0] * 255).round().numpy())
    np.testing.assert_array_equal(canvas[-240:, -100:], (large[0] * 255).round().permute(1, 2, 0).numpy())
