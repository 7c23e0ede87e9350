"""The explorers: sliders over a pure function `compute(**parameters) -> (panels, readout)`.

The panels are painted side by side into one PNG by Pillow, which is fast enough to follow a slider. An explorer
shows itself as a live widget, as that PNG and as its readout in plain text, so it means something on GitHub,
in print and to a screen reader, where no kernel runs.
"""

import base64
import math
from functools import lru_cache, partial

import ipywidgets
import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from . import images
from .data_step import DataStep
from .degradation import bicubic_downsample, bicubic_upsample, blur, degrade, downsample
from .kernels import benchmark_kernels, bicubic_kernel, gaussian_kernel, motion_kernel, normal_equations
from .metrics import psnr
from .network import load_usrnet
from .plotting import encode_png, log_magnitude
from .splitting import alternate, hqs, penalties, total_variation
from .upscaling import upscale
from .validation import check_count, check_image

PANEL_HEIGHT = 240     # pixels


class Explorer:
    """Sliders, a picture and a readout around a pure function; display it as the last line of a cell.

    compute: keyword parameters -> ({title: image}, readout), images (1, 1 or 3, H, W) in [0, 1].
    controls: {parameter: widget with a value}. continuous: follow a slider while it moves, or on release.
    """

    def __init__(self, compute, controls, continuous=True):
        self.compute, self.controls = compute, controls
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="98%", object_fit="contain"))
        self.readout = ipywidgets.HTML()
        for control in controls.values():
            control.style.description_width = "170px"
            control.layout.width = "520px"
            if hasattr(control, "continuous_update"):
                control.continuous_update = continuous
            control.observe(lambda change: self.update(), names="value")
        self.face = ipywidgets.VBox([*controls.values(), self.readout, self.picture])
        self.update()

    def update(self):
        """Compute for the sliders as they stand and show the result."""
        panels, readout = self.compute(**{name: control.value for name, control in self.controls.items()})
        self.canvas = paint(panels)
        self.picture.value = encode_png(self.canvas)
        self.readout.value = readout

    def _repr_mimebundle_(self, **kwargs):
        poster = encode_png(self.canvas.quantize(256), level=9)
        return {
            **self.face._repr_mimebundle_(),
            "image/png": base64.b64encode(poster).decode(),
            "text/plain": self.readout.value,
        }


def paint(panels):
    """Panels side by side under their titles, enlarged by whole factors where they are small: a Pillow image."""
    pictures = []
    for x in panels.values():
        picture = Image.fromarray(images.to_array(x)).convert("RGB")
        factor = max(1, PANEL_HEIGHT // picture.height)
        pictures.append(picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST))
    gap, title_height = 8, 22
    width = sum(picture.width + gap for picture in pictures) - gap
    canvas = Image.new("RGB", (width, title_height + max(picture.height for picture in pictures)), "white")
    draw, left = ImageDraw.Draw(canvas), 0
    for title, picture in zip(panels, pictures, strict=True):
        draw.text((left, 2), title, fill="black", font=_font())
        canvas.paste(picture, (left, title_height))
        left += picture.width + gap
    return canvas


def frames(pictures):
    """An explorer that leafs through results computed before: a list of (panels, readout), counted from 1."""
    return Explorer(lambda frame: pictures[frame - 1], {"frame": _slider("iteration", 1, 1, len(pictures), 1)()})


def _slider(description, value, low, high, step):
    """What makes a slider, of whole numbers where the step is one."""
    kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
    return partial(kind, value=value, min=low, max=high, step=step, description=description)


def explorer(continuous=True, **controls):
    """Of a `compute`, make the function that builds its `Explorer`. controls: what makes each widget."""
    def decorate(compute):
        def build():
            return Explorer(compute, {name: control() for name, control in controls.items()}, continuous)

        build.__name__, build.__doc__ = compute.__name__, compute.__doc__       # but not the signature of compute
        return build

    return decorate


# --- Notebook 01: the degradation --------------------------------------------------------------------------------

@explorer(
    kind=partial(ipywidgets.ToggleButtons, options=["Gaussian", "motion"], description="kernel"),
    width=_slider("width (pixels)", 0.8, 0.4, 4.0, 0.1),
    stretch=_slider("stretch along the axis", 1.0, 1.0, 3.0, 0.1),
    angle=_slider("angle (degrees)", 30, 0, 175, 5),
    seed=_slider("motion seed", 0, 0, 50, 1),
    scale=_slider("scale", 2, 1, 4, 1),
    sigma=_slider("noise (255ths)", 0.0, 0.0, 25.0, 0.5),
)
def degradation(kind, width, stretch, angle, seed, scale, sigma):
    """Kernel, scale and noise, and what they make of a photograph and of its spectrum."""
    x = _scene("coffee", 240, (60, 200))
    if kind == "motion":
        k = motion_kernel(25, torch.Generator().manual_seed(seed))
    else:
        k = gaussian_kernel(25, ((width * stretch) ** 2, width**2), math.radians(angle))
    blurred = blur(x, k)
    y = degrade(x, k, scale, sigma / 255, torch.Generator().manual_seed(0))
    spectrum = torch.fft.fft2(blurred.mean(1))
    panels = {
        "x": x,
        "k": (k / k.max()),
        f"y = (x ⊗ k)↓{scale} + n": y,
        "log spectrum of x ⊗ k": log_magnitude(spectrum)[None, None],
        "log spectrum of y": log_magnitude(torch.fft.fft2(y.mean(1)))[None, None],
    }
    share = _share_beyond(spectrum, scale)
    side = 240 // scale
    return panels, (
        f"y has {side} x {side} pixels, 1/{scale**2} of x. Of the detail left by the blur (all but the mean), "
        f"{100 * share:.1f} % lies beyond the highest frequency of the small grid and aliases."
    )


def _share_beyond(spectrum, scale):
    """The share of a spectrum's energy, without frequency 0, beyond the Nyquist frequency of the decimated grid."""
    energy = spectrum.abs().square().squeeze()
    energy[0, 0] = 0
    fast = [torch.fft.fftfreq(side).abs() > 0.5 / scale for side in energy.shape]
    return (energy[fast[0][:, None] | fast[1][None, :]].sum() / energy.sum()).item()


# --- Notebook 02: the bicubic kernel -----------------------------------------------------------------------------

KERNEL_DATA = ("photographs", "photographs, 8-bit y", "white noise", "white noise, 8-bit y")


@explorer(
    scale=_slider("scale", 2, 2, 4, 1),
    source=partial(ipywidgets.Dropdown, options=KERNEL_DATA, value=KERNEL_DATA[1], description="data"),
    count=_slider("number of images", 1, 1, 4, 1),
    ridge=_slider("log10 of the ridge", -6.0, -8.0, 2.0, 0.5),
)
def kernel_estimation(scale, source, count, ridge):
    """Least squares from more or fewer images, photographs or noise, exact or rounded, with or without a ridge."""
    values, vectors, moment = _eigenproblem(scale, source, count)
    estimate = (vectors @ ((vectors.T @ moment) / (values + 10**ridge))).view(21, 21)
    exact = bicubic_kernel(scale, 21)[0, 0]
    error = estimate - exact
    panels = {
        "least-squares estimate": _signed(estimate, exact.abs().max()),
        "analytic bicubic kernel": _signed(exact, exact.abs().max()),
        "difference, 20 times": _signed(20 * error, exact.abs().max()),
    }
    quality = 20 * math.log10(exact.norm() / error.norm())
    condition = (values[-1] + 10**ridge) / (values[0] + 10**ridge)
    return panels, (
        f"The kernel is {quality:.0f} dB above the error of its estimate. "
        f"Condition number of the normal matrix with the ridge: {condition:.0e}."
    )


@lru_cache(maxsize=64)
def _eigenproblem(scale, source, count):
    """Eigenvalues and eigenvectors of A'A, and A'y, summed over the first `count` images."""
    gram, moment = (sum(part) for part in zip(*(_pair(scale, source, i) for i in range(count)), strict=True))
    return *torch.linalg.eigh(gram), moment


@lru_cache(maxsize=64)
def _pair(scale, source, index):
    if source.startswith("white noise"):
        x = torch.rand(1, 1, 120, 120, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
    else:
        x = images.sample(images.SAMPLES[index], 120, (100, 150)).mean(1, keepdim=True)
    y = bicubic_downsample(x, scale)
    return normal_equations(x, (y * 255).round() / 255 if source.endswith("8-bit y") else y, scale, 21)


# --- Notebook 03: half-quadratic splitting -----------------------------------------------------------------------

@explorer(
    continuous=False,
    iteration=_slider("iteration", 1, 1, 8, 1),
    lam=_slider("log10 of λ", 0.7, -1.0, 2.5, 0.1),
    beta_first=_slider("first β", 0.3, 0.1, 0.6, 0.05),
)
def splitting(iteration, lam, beta_first):
    """Total-variation splitting, iteration by iteration, for any λ and any first β."""
    return _opened(iteration, *_splitting_run(lam, beta_first))


@lru_cache(maxsize=64)
def _splitting_run(lam, beta_first):
    x = _scene("astronaut", 120, (60, 170)).mean(1, keepdim=True)
    k = gaussian_kernel(15, (1.6**2, 1.6**2))
    y = degrade(x, k, 2, 2.55 / 255, torch.Generator().manual_seed(0))
    path = penalties(10**lam, beta_first, 0.05, 8)
    return x, y, list(hqs(y, k, 2, 2.55 / 255, lambda z, beta: total_variation(z, beta, 30), 10**lam, path))


# --- Notebook 04: the data step ----------------------------------------------------------------------------------

@explorer(
    alpha=_slider("log10 of α", -2.0, -8.0, 2.0, 0.25),
    scale=_slider("scale", 2, 1, 4, 1),
    sigma=_slider("noise (255ths)", 0.0, 0.0, 25.0, 0.5),
)
def data_step(alpha, scale, sigma):
    """One data step, with α from 'trust the data' to 'trust the prior'."""
    x, y, k, guess, solve = _data_step_case(scale, sigma)
    z = solve(guess, 10**alpha)
    trust = solve.power[0, 0] / (solve.power[0, 0] + 10**alpha)      # half a spectrum: mirror it to the whole
    trust = torch.fft.fft2(torch.fft.irfft2(trust, s=y.shape[-2:])).real.clamp(0, 1)
    panels = {
        "y": y,
        "x: a guess (bicubic)": guess,
        "z: after the data step": z,
        "z - x, 4 times, on grey": 0.5 + 4 * (z - guess),
        "who decides: white y, black x": torch.fft.fftshift(trust)[None, None],
    }
    misfit = [(y - downsample(blur(v, k), scale)).norm() / y.norm() for v in (guess, z)]
    return panels, (
        f"α = {10**alpha:.1e}. |y - Ax| / |y| was {misfit[0]:.0e}, |y - Az| / |y| is {misfit[1]:.0e}. "
        f"PSNR of x {psnr(guess, x):.1f} dB, of z {psnr(z, x):.1f} dB."
    )


@lru_cache(maxsize=64)
def _data_step_case(scale, sigma):
    x = _scene("chelsea", 240, (30, 90))
    k = gaussian_kernel(25, (1.6**2, 1.6**2))
    y = degrade(x, k, scale, sigma / 255, torch.Generator().manual_seed(0))
    return x, y, k, bicubic_upsample(y, scale), DataStep(y, k, scale)


# --- Notebook 05: the unfolded network -------------------------------------------------------------------------------

BLURS = ("Gaussian", "motion")
_network = lru_cache(load_usrnet)


@explorer(
    continuous=False,
    iteration=lambda: _slider("iteration", 1, 1, len(_unfolding_run("Gaussian", 2, 2.5)[-1]), 1)(),
    kind=partial(ipywidgets.ToggleButtons, options=BLURS, description="kernel"),
    scale=_slider("scale", 2, 1, 4, 1),
    sigma=_slider("noise (255ths)", 2.5, 0.0, 25.0, 2.5),
)
def unfolding(iteration, kind, scale, sigma):
    """The inspector: the trained network opened at every iteration, for any scale and noise."""
    x, y, k, steps = _unfolding_run(kind, scale, sigma)
    panels, readout = _opened(iteration, x, y, steps)
    of_z, of_x = ((y - downsample(blur(v, k), scale)).norm() / y.norm() for v in steps[iteration - 1][:2])
    return panels, f"{readout} |y - Az| / |y| = {of_z:.3f}, |y - Ax| / |y| = {of_x:.3f}."


@explorer(
    continuous=False,
    turn=_slider("log2 of the factor", 1.5, -2.0, 2.0, 0.25),
    kind=partial(ipywidgets.ToggleButtons, options=BLURS, value=BLURS[1], description="kernel"),
    scale=_slider("scale", 2, 1, 4, 1),
    sigma=_slider("noise (255ths)", 2.5, 0.0, 25.0, 2.5),
)
def turned_beta(turn, kind, scale, sigma):
    """H as a slide bar: every β of the trained network times one factor."""
    x, y, k, steps = _unfolding_run(kind, scale, sigma)
    own, path = steps[-1].x, [(step.alpha, step.beta * 2**turn) for step in steps]
    *_, last = alternate(DataStep(y, k, scale), F.interpolate(y, scale_factor=scale), _network("tiny").prior, path)
    panels = {
        "y": y,
        "x: β as H chose it": own,
        f"x: β times {2**turn:.2f}": last.x,
        "their difference, 4 times, on grey": 0.5 + 4 * (last.x - own),
        "the truth": x,
    }
    betas = ", ".join(f"{beta.item():.2g}" for _, beta in path)
    return panels, f"β = {betas}. PSNR {psnr(last.x, x):.2f} dB; with β as H chose it, {psnr(own, x):.2f} dB."


@lru_cache(maxsize=64)
def _unfolding_run(kind, scale, sigma):
    x = _scene("astronaut", 120, (60, 170))
    k = benchmark_kernels()[8:9] if kind == "motion" else gaussian_kernel(25, (1.6**2, 1.6**2))
    y = degrade(x, k, scale, sigma / 255, torch.Generator().manual_seed(0))
    return x, y, k, _network("tiny").trajectory(y, k, scale, sigma / 255)


# --- Notebook 08: limits -----------------------------------------------------------------------------------------

@explorer(
    continuous=False,
    width=_slider("assumed width (pixels)", 2.0, 0.8, 2.8, 0.1),
    sigma=_slider("assumed noise (255ths)", 2.5, 0.0, 50.0, 2.5),
    noise=_slider("true noise (255ths)", 2.5, 0.0, 25.0, 2.5),
    scale=_slider("scale", 2, 1, 4, 1),
)
def mismatch(width, sigma, noise, scale):
    """What a wrong kernel, the true width is 1.6 pixels, and a wrong noise level do: the network, live."""
    x, y, _, steps = _unfolding_run("Gaussian", scale, noise)
    right, told = steps[-1].x, gaussian_kernel(25, (width**2, width**2))
    wrong = _network("tiny")(y, told, scale, sigma / 255)
    panels = {
        "y": y,
        f"told width {width:.1f}, noise {sigma:g}/255": wrong,
        f"told the truth: 1.6, {noise:g}/255": right,
        "their difference, 4 times, on grey": 0.5 + 4 * (wrong - right),
        "the truth": x,
    }
    misfit = 255 * (y - downsample(blur(wrong, told), scale)).square().mean().sqrt().item()
    return panels, (
        f"PSNR {psnr(wrong, x):.1f} dB; told the truth, {psnr(right, x):.1f} dB. "
        f"The residual with what you assume is {misfit:.1f}/255 per pixel."
    )


# --- Notebook 12: the playground ---------------------------------------------------------------------------------

def by_hand(y, scale):
    """What the network is told of a photograph is set by hand: an oval Gaussian for the blur, and the noise.

    y: (1, 3, h, w) in [0, 1], ValueError unless more than 2 ceil(12 / scale) pixels wide and high; its borders need not
    wrap around. The readout has the root mean square of y - A x over its middle, into which no border is blurred.
    """
    check_image("y", y)
    check_count("scale", scale)
    edge = math.ceil(12 / scale)            # as far as the kernel reaches, in pixels of y
    centre = -(scale - 1) / 2               # of a pixel of y, in pixels of x
    middle = (..., slice(edge, -edge), slice(edge, -edge))
    if min(y.shape[-2:]) <= 2 * edge:
        raise ValueError(f"y must be more than {2 * edge} pixels wide and high; got {tuple(y.shape)}")
    y = y.float()

    def compute(width, stretch, angle, sigma):
        k = gaussian_kernel(25, ((width * stretch) ** 2, width**2), math.radians(angle), (centre, centre)).float()
        x = upscale(_network("tiny"), y, k, scale, sigma / 255)
        residual = (y - downsample(blur(x, k), scale))[middle]
        panels = {
            "y": y,
            "k": k / k.max(),
            "bicubic enlargement": F.interpolate(y, scale_factor=scale, mode="bicubic"),
            "the network": x,
            "y - A x, 8 times, on grey": 0.5 + 8 * residual,
        }
        return panels, (
            f"Told: width {width:.1f}, stretched {stretch:.1f} times at {angle}°, noise {sigma:.1f}/255. "
            f"What is left of y: {255 * residual.square().mean().sqrt():.1f}/255."
        )

    return Explorer(compute, {
        "width": _slider("assumed width (pixels)", 0.5, 0.4, 3.2, 0.1)(),
        "stretch": _slider("stretch along the axis", 1.0, 1.0, 2.0, 0.1)(),
        "angle": _slider("angle (degrees)", 0, 0, 175, 5)(),
        "sigma": _slider("assumed noise (255ths)", 3.0, 0.0, 15.0, 0.5)(),
    }, continuous=False)


# --- Shared ------------------------------------------------------------------------------------------------------

def _opened(iteration, x, y, steps):
    """One iteration of a loop: panels and readout."""
    step = steps[iteration - 1]
    panels = {
        "y": y,
        f"z{iteration}: after the data step": step.z,
        f"x{iteration}: after the prior step": step.x,
        "z - x, 4 times, on grey": 0.5 + 4 * (step.z - step.x),
        "the truth": x,
    }
    return panels, (
        f"Iteration {iteration}: α = {float(step.alpha):.1e}, β = {float(step.beta):.2g}. "
        f"PSNR of z {psnr(step.z, x):.1f} dB, of x {psnr(step.x, x):.1f} dB."
    )


def _signed(k, peak):
    """A kernel as a picture (1, 3, h, w): blue below zero, white at zero, red above."""
    colours = matplotlib.colormaps["RdBu_r"]((0.5 + 0.5 * k / peak).numpy())
    return torch.from_numpy(colours[..., :3]).permute(2, 0, 1)[None]


@lru_cache
def _scene(name, size, corner):
    return images.sample(name, size, corner).float()


@lru_cache
def _font():
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)
