"""One figure style for the whole course: image grids with zoomed crops, kernels, spectra; shown and saved at once."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from matplotlib.patches import Rectangle
from PIL import Image

FIGURES = Path(__file__).parents[1] / "figures"

# The colours of Okabe and Ito (2008), told apart by readers with any colour vision.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442",
)


def use_style():
    """Set Matplotlib to the course's style: call it once at the top of a notebook."""
    plt.rcParams.update(
        {
            "figure.dpi": 100, "figure.constrained_layout.use": True,
            "font.size": 10, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
            "axes.grid": True, "grid.alpha": 0.25, "image.interpolation": "nearest", "legend.frameon": False,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, SKY, PURPLE]),
        }
    )


def show(figure, name, alt):
    """Save a figure as figures/<name>.png and show that same picture in the notebook.

    alt: a sentence for readers who cannot see it.
    """
    width = int(figure.bbox.width)                                                          # on the page, in pixels
    png = save(figure, name)
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def save(figure, name):
    """Save a figure as figures/<name>.png, close it, and return the file's bytes.

    Curves and their letters are drawn with twice the pixels, for fine screens; photographs have only their own. The
    file has 256 colours, so that notebooks stay small: a median cut, then k-means. The cut alone merges rare colours,
    and puts edges into faces that are not there.
    """
    lines = not all(axis.images for axis in figure.axes if axis.has_data())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi * (2 if lines else 1))
    plt.close(figure)
    colours = Image.open(buffer).convert("RGB").quantize(256, kmeans=1)
    png = encode_png(colours, level=9)
    FIGURES.mkdir(exist_ok=True)
    (FIGURES / f"{name}.png").write_bytes(png)
    return png


def encode_png(image, level=1):
    """A Pillow image as the bytes of a PNG file; level 1 is quick, 9 small."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def image_grid(panels, zoom=None, columns=None, side=2.4):
    """Pictures in a row, or in rows of `columns`; with `zoom`, a second row shows one region of each, enlarged.

    panels: {title: image}, each (1, 1 or 3, H, W), clipped to [0, 1]. zoom: (row, column, size) in pixels of
    the largest picture; smaller ones are cropped at the same place in the scene, and all stand in one row.
    side: inches a picture.
    Returns figure and axes.
    """
    count = len(panels)
    columns = count if zoom or not columns else columns
    rows = 2 if zoom else -(-count // columns)
    tallest = max(x.shape[-2] for x in panels.values())
    shape = next(iter(panels.values())).shape
    aspect = shape[-2] / shape[-1]
    heights = [aspect, 1.0] if zoom else [aspect] * rows
    titles = 0.3 + 0.17 * max(title.count("\n") for title in panels)        # inches, for one line and for each more
    figure, axes = plt.subplots(
        rows, columns, figsize=(side * columns, side * sum(heights) + titles * (1 if zoom else rows)), squeeze=False,
        height_ratios=heights, layout="compressed",             # around pictures, whose sides are in proportion
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (title, x) in enumerate(panels.items()):
        axis, picture = axes.flat[index], as_picture(x)
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
        if zoom:
            row, column, size = (round(value * x.shape[-2] / tallest) for value in zoom)
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), size, size, fill=False, color=YELLOW, linewidth=1.2))
            axes[1, index].imshow(picture[row : row + size, column : column + size], cmap="gray", vmin=0, vmax=1)
    return figure, axes


def draw_kernel(axis, k, title="", centre=True):
    """A kernel as an image: blue below zero, red above, its centre (h // 2, w // 2) marked with a cross.

    k: (h, w) or (1, 1, h, w).
    """
    k = torch.as_tensor(k).detach().reshape(k.shape[-2:])
    peak = k.abs().max().item()
    picture = axis.imshow(k.cpu().numpy(), cmap="RdBu_r", vmin=-peak, vmax=peak)
    if centre:
        axis.plot(k.shape[1] // 2, k.shape[0] // 2, "+", color="black", markersize=8)
    axis.set_title(title)
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    return picture


def draw_spectrum(axis, x, title=""):
    """The log magnitude of an image's spectrum, frequency 0 in the middle, axes in cycles per pixel.

    x: (1, C, H, W), averaged over its channels.
    """
    magnitude = log_magnitude(torch.fft.fft2(x.detach().mean(1))).cpu().numpy()
    picture = axis.imshow(magnitude, cmap="magma", vmin=0, vmax=1, extent=(-0.5, 0.5, 0.5, -0.5))
    axis.set(title=title, xlabel="cycles per pixel", xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
    axis.grid(False)
    return picture


def log_magnitude(spectrum):
    """log |spectrum|, frequency 0 in the middle, five decades below its maximum mapped to [0, 1]: (H, W).

    spectrum: complex, of H x W entries.
    """
    magnitude = torch.fft.fftshift(spectrum.reshape(spectrum.shape[-2:]).abs()).double()
    return (1 + (magnitude / magnitude.max().clamp(min=1e-300)).log10() / 5).clamp(0, 1)


def as_picture(x):
    """(1, 1 or 3, H, W) -> a float array (H, W) or (H, W, 3), clipped to [0, 1], for Matplotlib."""
    return x[0].clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy(force=True)
