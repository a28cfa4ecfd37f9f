"""Augmentation of mini-batches: `augment(images f32[b,c,h,w], generator) -> images`."""

from __future__ import annotations

import numpy as np

from taut.ir.op import Array

from .dataset import Augment


def flip(images: Array, random: np.random.Generator) -> Array:
    """Each image mirrored left to right, or not."""
    mirrored = random.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[..., ::-1], images)


def shift(pixels: int) -> Augment:
    """Each image moved by up to this many pixels along both axes, zeros coming in: padding and a
    random crop, as He et al. (2016) train on CIFAR (with 4).
    """

    def augment(images: Array, random: np.random.Generator) -> Array:
        _, _, height, width = images.shape
        wide = np.pad(images, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))
        made = np.empty_like(images)
        for k, (top, left) in enumerate(random.integers(0, 2 * pixels + 1, (len(images), 2))):
            made[k] = wide[k, :, top : top + height, left : left + width]
        return made

    return augment


def chain(*steps: Augment) -> Augment:
    """One after the other."""

    def augment(images: Array, random: np.random.Generator) -> Array:
        for step in steps:
            images = step(images, random)
        return images

    return augment
