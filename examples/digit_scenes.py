"""Scenes of handwritten digits that may overlap, and a detector of digits, for
example 13.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

SIDE = 32  # of the canvas
SIZE = 8  # of a digit and of every box
MOST = 96  # candidates of a scene
OFFSETS = np.stack(
    np.meshgrid(*[np.arange(SIDE - SIZE + 1)] * 2, indexing="ij"), -1
).reshape(-1, 2)


@dataclass(frozen=True)
class Scenes:
    """Scenes with their candidates, by falling score; a box is named by its
    upper left corner.

    canvas has shape (scenes, 32, 32); truth, a list, the corners of the digits;
    digits (scenes,) counts them; boxes (scenes, 96, 2); iou (scenes, 96, 96),
    -1 where there is no candidate; real (scenes, 96) tells which there are;
    hits (scenes, 15, 96), whether a box finds a digit; content (scenes, 4):
    one, the number of candidates, ink, the share of touching pairs, the last
    three in standard units of the scenes to train on.
    """

    canvas: np.ndarray
    truth: list
    digits: torch.Tensor
    boxes: np.ndarray
    iou: torch.Tensor
    real: torch.Tensor
    hits: torch.Tensor
    content: torch.Tensor


def overlap(a, b):
    """Return the intersection over union of boxes with corners a and b, shape
    (a, b).
    """
    common = (SIZE - np.abs(a[:, None] - b[None])).clip(min=0).prod(-1)
    return common / (2 * SIZE**2 - common)


def place(images, rng):
    """Return a canvas and the corners of its digits: up to six apart, or three
    tight lines.
    """
    if rng.random() < 0.5:
        corners = rng.permutation(OFFSETS)[:40]
        truth = corners[:1]
        for one in corners[1:]:
            if len(truth) < 6 and overlap(one[None], truth).max() < 0.1:
                truth = np.vstack([truth, one])
    else:
        across = [
            rng.integers(3) + rng.integers(4, 6, size=5).cumsum()
            for _ in range(3)
        ]
        down = [8 * line + rng.integers(0, 2, size=5) for line in range(3)]
        truth = np.column_stack(
            [np.concatenate(down), np.concatenate(across) - 4]
        )
    canvas = np.zeros((SIDE, SIDE))
    for corner in truth:
        part = canvas[tuple(slice(c, c + SIZE) for c in corner)]
        np.maximum(part, images[rng.integers(len(images))], out=part)
    return canvas + 0.1 * rng.standard_normal(canvas.shape), truth


def windows(canvas):
    """Return all windows of the size of a digit as rows."""
    return np.lib.stride_tricks.sliding_window_view(
        canvas, (SIZE, SIZE)
    ).reshape(-1, SIZE**2)


def quadratic(patches):
    """Return the pixels and the products of each with its neighbours."""
    square = patches.reshape(-1, SIZE, SIZE)
    beside = [
        square[:, 1:] * square[:, :-1],
        square[:, :, 1:] * square[:, :, :-1],
        square**2,
    ]
    return np.hstack(
        [patches, *(part.reshape(len(patches), -1) for part in beside)]
    )


def detector(images, rng):
    """Return a logistic regression that tells windows on a digit from others,
    by scenes.
    """
    patches, labels = [], []
    for _ in range(200):
        canvas, truth = place(images, rng)
        best = overlap(OFFSETS, truth).max(1)
        clear = rng.permutation(np.flatnonzero(best < 0.5))[:40]
        chosen = np.concatenate([np.flatnonzero(best >= 0.75), clear])
        patches.append(windows(canvas)[chosen])
        labels.append(best[chosen] >= 0.75)
    fitted = LogisticRegression(C=0.1, max_iter=500)
    return fitted.fit(
        quadratic(np.concatenate(patches)), np.concatenate(labels)
    )


def look(images, count, found, rng):
    """Return so many scenes, with the windows to which the detector gives even
    odds or more.
    """
    drawn = [place(images, rng) for _ in range(count)]
    boxes = np.zeros((count, MOST, 2), int)
    real = np.zeros((count, MOST), bool)
    iou = np.full((count, MOST, MOST), -1.0)
    hits = np.zeros((count, 15, MOST), bool)
    for k, (canvas, truth) in enumerate(drawn):
        score = found.decision_function(quadratic(windows(canvas)))
        order = np.argsort(-score, kind="stable")[:MOST]
        order = order[score[order] > 0]
        n = len(order)
        boxes[k, :n], real[k, :n] = OFFSETS[order], True
        iou[k, :n, :n] = overlap(OFFSETS[order], OFFSETS[order])
        hits[k, : len(truth), :n] = overlap(truth, OFFSETS[order]) >= 0.5
    canvas = np.array([one[0] for one in drawn])
    truth = [one[1] for one in drawn]
    ink = (canvas > 0.3).mean((1, 2))
    touching = (iou > 0.1).mean((1, 2))
    content = np.column_stack([real.mean(1), ink, touching])
    digits = torch.tensor([len(corners) for corners in truth])
    return Scenes(
        canvas,
        truth,
        digits,
        boxes,
        *map(torch.tensor, (iou, real, hits, content)),
    )


def split(seed=0):
    """Return scenes to train on and scenes to judge; detector and both have
    their own digits.
    """
    rng = np.random.default_rng(seed)
    images = rng.permutation(load_digits().images / 16)
    found = detector(images[:600], rng)
    both = [
        look(part, 300, found, rng)
        for part in (images[600:1200], images[1200:])
    ]
    spread, mean = torch.std_mean(both[0].content, 0)
    standard = [
        torch.nn.functional.pad((s.content - mean) / spread, (1, 0), value=1)
        for s in both
    ]
    return [
        replace(part, content=content)
        for part, content in zip(both, standard, strict=True)
    ]
