"""The entry point of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bilevel.errors import ProblemError
from bilevel.learning.checkpoint import Checkpoint
from bilevel.learning.history import History
from bilevel.learning.plan import Plan
from bilevel.learning.processes import first_interrupt, join, kept_generators
from bilevel.learning.trainer import Trainer


def fit(
    model: torch.nn.Module,
    loss: Callable[..., Any],
    data: Any,
    *,
    validation: Any = None,
    optimizer: Optimizer | Callable[[Any], Optimizer] = torch.optim.Adam,
    scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None,
    scheduler_interval: str = "epoch",
    epochs: int = 10,
    batch_size: int = 32,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
    monitor: str | None = None,
    maximize: bool = False,
    patience: int | None = None,
    max_grad_norm: float | None = None,
    checkpoint: str | Path | Checkpoint | None = None,
    resume: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    log: str | Path | None = None,
    progress: bool | Sequence[str] = True,
) -> History:
    r"""Train a model by steps along the gradient of a loss, one batch after the other.

        minimize over w   mean over the data of  loss(model_w, sample)

    Parameters
    ----------
    model
        Trained in place; it may contain layers of ``bilevel.layers``.
    loss
        ``loss(model, *batch)`` returns a tensor with one number, the batch's mean. A batch that is
        a mapping is given by name, ``loss(model, **batch)``.
    data, validation
        A tensor, a tuple or a mapping of tensors (samples along the first axis), a ``Dataset``, or
        a ``DataLoader``, which makes its own batches. The validation loss is taken after each epoch
        with the model in ``eval`` mode and without gradients.
    optimizer
        An optimizer of the model's parameters, or a function that takes those that require a
        gradient and returns one. ``LBFGS`` too.
    scheduler
        Of the learning rate: an object, or a function of the optimizer.
    scheduler_interval
        ``"epoch"`` or ``"step"``: how often the scheduler moves.
    epochs
        Passes over the data, those before a resumption included.
    batch_size
        Samples a batch, in each process.
    metrics
        ``metric(model, *batch)`` returns a number; its mean over the validation data, or over the
        training data without such, becomes a curve of the metric's name.
    monitor
        The curve that decides which epoch is best: ``"loss"``, ``"validation"`` or a metric.
        ``None``: the validation loss, or the training loss without such data.
    maximize
        Whether the largest value of that curve is best.
    patience
        Stop after so many epochs without a new best one. With a patience, the model has the best
        epoch's weights in the end, however training ended.
    max_grad_norm
        Gradients longer than this (2-norm over all parameters) are shortened to it.
    checkpoint
        A folder, or a ``Checkpoint``, which also says how often to save within an epoch.
    resume
        Go on from what the folder holds, if it holds something; ``False`` replaces it.
    seed
        Of the order of samples and of all that is drawn within the training.
    device
        ``"cpu"``, ``"cuda"``, ...: model and batches are moved there. ``None``: where the model's
        parameters are.
    log
        A ``.csv`` file with one row per epoch; any other name is a folder for TensorBoard, which
        needs the extra ``tensorboard``.
    progress
        Show a bar with all curves, or with those named; nothing is shown where there is no
        terminal.

    Returns
    -------
    History
        Status, learning curves, and which epoch's weights the model has. The first Ctrl-C ends
        training after the step, saves, and returns, with status ``INTERRUPTED``.

    Raises
    ------
    ProblemError
        If an argument, a batch or the loss is malformed.
    CheckpointError
        If the checkpoint is damaged, of another run, or cannot be written.
    BackendNotFound
        If ``safetensors`` or ``tensorboard`` is needed and not installed.

    Warns
    -----
    BilevelWarning
        If a loss, a gradient or a weight is not finite. Training stops before the weights are
        updated with it, and the model gets back the weights of the last epoch that ended well, with
        ``patience`` of the best one.

    Notes
    -----
    A run that was killed and is resumed by the same call ends with the same weights, to the last
    bit, as one that was not, on the same machine with the same libraries, if the loss is a function
    of weights, batch and the global generators of torch, NumPy and Python alone. These are set
    anew before each step, from ``seed``, and given back in the end as they were. It does not hold
    for operations that torch itself does not repeat (some on CUDA), for layers called with
    ``warm_start``, or for a sampler with a memory of its own.

    Under ``torchrun`` every process calls ``fit``; each takes its share of the data, gradients are
    averaged (``DistributedDataParallel``), and the first process writes. The process group is made
    by the first call and lasts. ``n`` processes do what
    one with ``n`` times the batch size does, but for rounding, where ``n`` times the batch size
    divides the number of samples; else a few samples count twice in an epoch.

    References
    ----------
    Li et al., *PyTorch Distributed: Experiences on Accelerating Data Parallel Training* (2020).

    Examples
    --------
    >>> import torch
    >>> from bilevel.learning import fit
    >>> x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> line = torch.nn.Linear(1, 1, dtype=torch.float64)
    >>> def loss(model, x, y):
    ...     return (model(x) - y).square().mean()
    >>> history = fit(
    ...     line, loss, (x, 3 * x + 1), optimizer=torch.optim.LBFGS, batch_size=40
    ... )
    >>> print(history.status.name, round(line.weight.item(), 3))
    COMPLETED 3.0
    """
    where = Checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    watched = monitor or ("loss" if validation is None else "validation")
    plan = Plan(
        model=model,
        loss=loss,
        data=data,
        validation=validation,
        optimizer=optimizer,
        scheduler=scheduler,
        scheduler_interval=scheduler_interval,
        epochs=epochs,
        batch_size=batch_size,
        metrics=dict(metrics or {}),
        monitor=watched,
        maximize=maximize,
        patience=patience,
        max_grad_norm=max_grad_norm,
        checkpoint=where,
        resume=resume,
        seed=seed,
        log=log,
        progress=progress,
    )
    modes = {module: module.training for module in model.modules()}
    group = join(_device(model, device))
    with kept_generators(group.device), first_interrupt() as interrupt:
        try:
            return Trainer(plan, group, interrupt).run()
        finally:
            for module, mode in modes.items():
                module.training = mode


def _device(model: torch.nn.Module, device: str | torch.device | None) -> torch.device:
    if device is None:
        return next(model.parameters()).device
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ProblemError(f"fit(device={device!r}): torch knows no such device.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ProblemError(f"fit(device={device!r}): this torch finds no CUDA device; use 'cpu'.")
    return chosen
