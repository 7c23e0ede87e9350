"""usrlib: deep unfolding for image super-resolution, from the degradation model upwards.

Images are float tensors (N, C, H, W) in [0, 1]; kernels (1 or N, 1, h, w) with their centre at (h // 2, w // 2);
convolution is true and circular; `scale` keeps pixel 0 of each block; `sigma` is on the scale of the image.
Arguments of another type, shape or range, and NaN, are refused with a TypeError or ValueError that names them.
"""

from .data_step import DataStep, data_step
from .degradation import bicubic_downsample, bicubic_upsample, blur, blur_adjoint, degrade, downsample, upsample_zeros
from .fourier import psf_to_otf
from .kernels import benchmark_kernels, bicubic_kernel, estimate_kernel, gaussian_kernel, motion_kernel
from .metrics import psnr, ssim
from .network import USRNet, load_denoiser, load_usrnet
from .splitting import hqs

__all__ = [
    "DataStep", "USRNet", "benchmark_kernels", "bicubic_downsample", "bicubic_kernel", "bicubic_upsample", "blur",
    "blur_adjoint", "data_step", "degrade", "downsample", "estimate_kernel", "gaussian_kernel", "hqs", "load_denoiser",
    "load_usrnet", "motion_kernel", "psf_to_otf", "psnr", "ssim", "upsample_zeros",
]
