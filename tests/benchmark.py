"""`make benchmark`: the data step against the textbook form, in one process; explorers' answers; a training step; a
large photograph through the command line.

Writes figures/benchmark.json and figures/benchmark.png and says which of the targets are met.
"""

import dataclasses
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from textbook import RealTextbookDataStep, TextbookDataStep

import usrlib
from usrlib import images, plotting, training, upscaling, widgets

SIDES, SCALES, ALPHAS, ROUNDS = (252, 504, 1008), (1, 2, 3, 4), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8), 15
UNIT_ROUNDOFF = 2.0**-24


def median_milliseconds(*functions):
    """The median time of each, in milliseconds; called in turn, so that a slow moment of the machine hits all."""
    times = [[] for _ in functions]
    for _ in range(ROUNDS + 2):
        for function, row in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            row.append(1e3 * (time.perf_counter() - start))
    return [float(np.median(row[2:])) for row in times]      # the first two rounds warm up


def time_data_step():
    """Solve and set-up of both forms for every size and scale, 3 channels, float32; the textbook's as it is printed,
    with complex FFTs, and to solve with real ones, too."""
    return [time_one_size(side, scale) for side in SIDES for scale in SCALES]


def time_one_size(side, scale):
    k = usrlib.benchmark_kernels()[4:5].float()
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    y = usrlib.degrade(x, k, scale)
    forms = [form(y, k, scale) for form in (usrlib.DataStep, TextbookDataStep, RealTextbookDataStep)]
    solve = median_milliseconds(*(lambda form=form: form(x, 1e-2) for form in forms))
    setup = median_milliseconds(lambda: usrlib.DataStep(y, k, scale), lambda: TextbookDataStep(y, k, scale))
    ratios = solve[1] / solve[0], setup[1] / setup[0]
    print(f"{side}² ×{scale}: solve {solve[0]:.1f} ms, {ratios[0]:.1f} times faster, "
          f"{solve[2] / solve[0]:.1f} than with real FFTs; "
          f"set-up {setup[0]:.1f} ms, {ratios[1]:.1f} times", flush=True)
    return {
        "side": side, "scale": scale,
        "solve_ms": solve[0], "solve_textbook_ms": solve[1], "solve_ratio": ratios[0],
        "solve_real_textbook_ms": solve[2], "solve_real_ratio": solve[2] / solve[0],
        "setup_ms": setup[0], "setup_textbook_ms": setup[1], "setup_ratio": ratios[1],
    }


def measure_precision():
    """Largest error of float32 against float64, relative to the largest pixel, over the eight Gaussian kernels."""
    x, rows = images.sample("astronaut", 504), []
    for scale in SCALES:
        for alpha in ALPHAS:
            errors, textbook = [], []
            for k in usrlib.benchmark_kernels()[:8].split(1):
                y = usrlib.degrade(x, k, scale)
                guess = usrlib.bicubic_upsample(y, scale)
                exact = usrlib.data_step(guess, y, k, scale, alpha)
                for form, row in ((usrlib.DataStep, errors), (TextbookDataStep, textbook)):
                    rounded = form(y.float(), k.float(), scale)(guess.float(), alpha).double()
                    row.append(((rounded - exact).abs().max() / exact.abs().max()).item())
            rows.append({
                "scale": scale, "alpha": alpha, "error": max(errors), "textbook_error": max(textbook),
                "least_gain": min(t / e for t, e in zip(textbook, errors, strict=True)),
                "bound": 4 * UNIT_ROUNDOFF * (1 + 1 / (2 * alpha**0.5)),
            })
    return rows


def time_explorers():
    """Median of compute plus painting plus PNG encoding at the default settings, in milliseconds."""
    times = {}
    makers = (widgets.degradation, widgets.kernel_estimation, widgets.splitting, widgets.data_step, widgets.unfolding,
              widgets.turned_beta, widgets.mismatch)
    for make in makers:
        times[make.__name__] = median_milliseconds(make().update)[0]
    return times


def time_training():
    """A step of training tiny as on its card's CPU, 8 crops of 72², and how much of it goes into making the batch."""
    config = dataclasses.replace(training.CONFIGS["tiny"], crop=72, batch=8)
    photographs = training.Photographs([images.to_array(images.sample(name)) for name in images.SAMPLES])
    trainer = training.Trainer(config, photographs)
    whole, batch = median_milliseconds(trainer.step, lambda: trainer.sampler(trainer.done, trainer.index))
    other = training.Trainer(dataclasses.replace(config, optimiser="soap"), photographs)
    other.step()                                                        # its gradients stay; its bases are made
    adam, soap = (t / 10 for t in median_milliseconds(*(lambda optimiser=one.optimiser: [
        optimiser.step() for _ in range(10)] for one in (trainer, other))))       # in ten steps the bases turn once
    return {"step_ms": whole, "batch_ms": batch, "outside_the_network": batch / whole,
            "crops_per_second": 1e3 * config.batch / whole, "adam_ms": adam, "soap_ms": soap,
            "soap_over_adam": (whole - adam + soap) / whole}


def time_command():
    """`python -m usrlib` on a photograph of 2000x1500, enlarged twice: seconds, processor seconds, peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        photo, out = Path(folder, "photo.png"), Path(folder, "out.png")
        images.write(photo, images.sample("astronaut").tile(1, 1, 3, 4)[..., :1500, :2000])
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "usrlib", photo, out, "--scale", "2"], check=True, capture_output=True)
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def time_bfloat16():
    """The prior in bfloat16 against float32, four photographs of our own reduced by 2: times faster, dB lost at most.

    Faster only where the processor has bfloat16 (avx512_bf16 or amx_bf16 among its flags).
    """
    model, k, ratios, losses = usrlib.load_usrnet("tiny"), usrlib.gaussian_kernel(25, variances=(0.49, 0.49)), [], []
    for name in images.SAMPLES:
        x = images.sample(name, 300)
        y = usrlib.degrade(x, k, 2).float()
        results, seconds = [], []
        for reduced in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                upscaling.upscale(model, y, k.float(), 2, 0.0)                                          # warms up
                start = time.perf_counter()
                results.append(upscaling.upscale(model, y, k.float(), 2, 0.0))
                seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
        exact, rounded = (usrlib.psnr(result.double(), x, 8) for result in results)
        losses.append(exact - rounded)
    return {"times_faster": float(np.median(ratios)), "most_lost_db": max(losses)}


def draw(steps, precision):
    """Speed-up by size and scale on the left, float32 error against alpha on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for offset, side in enumerate(SIDES):
        ratios = [row["solve_ratio"] for row in steps if row["side"] == side]
        left.bar(np.arange(4) + 0.27 * (offset - 1), ratios, 0.25, label=f"{side}×{side}×3")
    left.axhline(1, color="black", linewidth=0.8)
    left.set(xticks=range(4), xticklabels=[f"×{s}" for s in SCALES], ylabel="times faster than the textbook form")
    left.legend(ncols=3, fontsize=8, loc="upper center")
    left.set_ylim(0, 1.25 * max(row["solve_ratio"] for row in steps))
    worst = [
        [max(row[key] for row in precision if row["alpha"] == alpha) for alpha in ALPHAS]
        for key in ("textbook_error", "error")
    ]
    right.loglog(ALPHAS, worst[0], "o-", color=plotting.RED, label="textbook form")
    right.loglog(ALPHAS, worst[1], "o-", color=plotting.BLUE, label="usrlib")
    right.loglog(ALPHAS, [4 * UNIT_ROUNDOFF * (1 + 1 / (2 * a**0.5)) for a in ALPHAS], "--", color=plotting.BLUE,
                 label="4ε (1 + 1/(2√α))")
    right.set(xlabel="α", ylabel="relative error of float32, worst case")
    right.legend()
    plotting.save(figure, "benchmark")


def main():
    plotting.use_style()
    steps, precision, explorers, step = time_data_step(), measure_precision(), time_explorers(), time_training()
    command, bfloat16 = time_command(), time_bfloat16()
    solve, real, setup = ([row[f"{name}_ratio"] for row in steps] for name in ("solve", "solve_real", "setup"))
    targets = {
        "solve at least 1.5 times faster at every size": min(solve) >= 1.5,
        "solve at least 2 times faster in the median": float(np.median(solve)) >= 2,
        "set-up at least 3 times faster in the median": float(np.median(setup)) >= 3,
        "float32 error within the bound everywhere": all(row["error"] <= row["bound"] for row in precision),
        "error 100 times below the textbook form's for alpha <= 1e-5, scale >= 2": all(
            row["least_gain"] >= 100 for row in precision if row["alpha"] <= 1e-5 and row["scale"] >= 2
        ),
        "every explorer answers within 100 ms": max(explorers.values()) <= 100,
        "a training batch takes a twentieth of a step at most": step["outside_the_network"] <= 0.05,
        "bfloat16 loses 0.05 dB at most": bfloat16["most_lost_db"] <= 0.05,
        "SOAP makes a step longer by a sixth at most": step["soap_over_adam"] <= 7 / 6,
    }
    result = {
        "command": "make benchmark", "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": platform.machine(), "median_solve_ratio": float(np.median(solve)), "least_solve_ratio": min(solve),
        "median_solve_real_ratio": float(np.median(real)), "least_solve_real_ratio": min(real),
        "median_setup_ratio": float(np.median(setup)), "data_step": steps, "precision": precision,
        "explorers_ms": explorers, "training": step, "command_line": command, "bfloat16": bfloat16,
        "targets": targets,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    path = Path(plotting.FIGURES) / "benchmark.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(steps, precision)
    print("explorers:", ", ".join(f"{name} {value:.0f} ms" for name, value in explorers.items()))
    print(f"2000x1500 to 4000x3000: {command['seconds']:.0f} s, {command['peak_mb'] / 1024:.1f} GB")
    print(f"in bfloat16: {bfloat16['times_faster']:.1f} times faster, {bfloat16['most_lost_db']:.3f} dB lost at most")
    print(f"training: {step['step_ms']:.0f} ms a step, {step['batch_ms']:.1f} ms of them for the batch, "
          f"{step['adam_ms']:.1f} ms for Adam; with SOAP {step['soap_over_adam']:.2f} times as long")
    for target, met in targets.items():
        print("met:    " if met else "NOT MET:", target)
    sys.exit(not all(targets.values()))


if __name__ == "__main__":
    main()
