"""A task with every source of chance: dropout, an order of samples, numpy and Python draws."""

import random
import time

import numpy as np
import torch

from bilevel.learning import Checkpoint, fit

X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
Y = torch.sin(X)


def network(seed=0, width=8):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(1, width),
        torch.nn.BatchNorm1d(width),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(width, 1),
    ).double()


def plain(seed=0):
    """A network without chance and without memory."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double()


def squares(model, x, y):
    return (model(x) - y).square().mean()


def chancy(model, x, y):
    noise = 0.01 * (random.random() + np.random.rand()) * torch.randn_like(x)
    return squares(model, x + noise, y)


def decaying(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.02)


def train(folder, *, model=None, pause=0.0, **options):
    """Train for six epochs of four steps; return model and history."""
    model = model or network()

    def loss(model, x, y):
        time.sleep(pause)
        return chancy(model, x, y)

    settings = {"epochs": 6, "batch_size": 10, "patience": 6, "progress": False} | options
    checkpoint = folder and Checkpoint(folder, every_steps=1)
    history = fit(
        model,
        loss,
        (X, Y),
        validation=(X[::3], Y[::3]),
        optimizer=adam,
        scheduler=decaying,
        checkpoint=checkpoint,
        **settings,
    )
    return model, history


def numbers(model):
    """All weights and buffers as bytes, to be compared to the last bit."""
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
