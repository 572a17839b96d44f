"""How much two boxes may overlap is learned, and depends on what the scene
shows.

A detector finds each object many times. Non-maximum suppression keeps a box
unless one kept before, with a better score, overlaps it by more than a
threshold. Here it is the follower of a model that sets the threshold from the
scene's content, in a soft form: keep_i is the product over j before i of ``1 -
keep_j sigmoid((iou_ij - threshold) / T)``; for T to 0 it is the usual one.
"""

from functools import partial

import torch
from digit_scenes import split

import bilevel as bl
from bilevel.adjoints import Implicit
from bilevel.learning import fit


def cuts(iou, threshold, T):
    """Return how far each box deletes each later one, if it is kept; T = 0:
    wholly or not.
    """
    over = iou - threshold[..., None, None]
    return torch.triu(torch.sigmoid(over / T) if T else (over > 0).to(over), 1)


def suppressed(cut):
    """Return the answer, by forward substitution; autograd's derivative of it
    is exact.
    """
    keep = torch.ones_like(cut[..., 0])
    for j in range(cut.shape[-1]):
        keep = keep * (1 - keep[..., j, None] * cut[..., j, :])
    return keep


# The smallest case: the answer as the point where keep is its product,
# differentiated both ways.
three = torch.tensor(
    [[1, 0.55, 0.15], [0.55, 1, 0.45], [0.15, 0.45, 1]]
).double()


def gap(x, keep):
    return keep - (1 - keep[:, None] * cuts(three, x, 0.1)).prod(0)


point = bl.SmoothProblem(
    lambda x, keep: keep.sum(), lambda x, keep: gap(x, keep).square().sum()
)
half = torch.tensor(0.5).double().requires_grad_()
loop = suppressed(cuts(three, half, 0.1))
for keep in (loop, Implicit().attach(point, half, loop.detach())):
    slopes = [
        torch.autograd.grad(one, half, retain_graph=True)[0].item()
        for one in keep[1:]
    ]
    print(
        "smallest case: keep {:.5f}, {:.5f}, slopes {:.5f}, {:.5f}".format(
            *keep[1:], *slopes
        )
    )
    asked = torch.tensor([0.37754, 0.83233, 2.35004, 0.24397])
    assert torch.allclose(
        torch.tensor(keep[1:].tolist() + slopes), asked, atol=1e-5
    )


def threshold(model, content):
    return torch.sigmoid(content @ model["w"])


def loss(model, content, iou, real, hits, digits):
    """Return one minus the F1 score, mean over scenes, of softly kept boxes."""
    keep = suppressed(cuts(iou, threshold(model, content), 0.02)) * real
    found = (keep[:, None] * hits).sum(-1).clamp(max=1).sum(1)
    return 1 - (2 * found / (keep.sum(1) + digits)).mean()


def scores(scenes, limit):
    """Return the F1 score of each scene, usual suppression; a box finds one
    digit at most.
    """
    keep = suppressed(cuts(scenes.iou, limit, 0)) * scenes.real
    missing = torch.ones_like(scenes.hits[..., 0])
    for j in range(keep.shape[1]):
        hit = missing & scenes.hits[..., j] & (keep[:, j, None] > 0)
        missing = missing & ~(hit & (hit.cumsum(1) == 1))
    return 2 * (~missing).sum(1) / (keep.sum(1) + scenes.digits)


train, test = split()
grid = torch.arange(0.05, 0.6, 0.01).double()
tried = torch.stack([scores(train, limit.expand(300)) for limit in grid])


def best(some):
    return grid[tried[:, some].mean(1).argmax()].expand(300)


few = train.digits <= 6
adam = partial(torch.optim.Adam, lr=0.1)
limits = {"one threshold": best(train.digits > 0)}
limits["two, told the kind"] = torch.where(
    test.digits <= 6, best(few), best(~few)
)
for name, columns in (("one, by gradients", 1), ("by content", 4)):
    seen, new = (
        part.content * (torch.arange(4) < columns) for part in (train, test)
    )
    model = torch.nn.ParameterDict(
        {"w": torch.tensor([-0.8, 0, 0, 0]).double()}
    )
    data = seen, train.iou, train.real, train.hits, train.digits
    fit(model, loss, data, optimizer=adam, batch_size=25, progress=False)
    limits[name] = threshold(model, new).detach()
right = {name: scores(test, limit) for name, limit in limits.items()}
for name, each in right.items():
    parts = [
        each[some].mean()
        for some in (test.digits > 0, test.digits <= 6, test.digits > 6)
    ]
    print("{:18} F1 {:.3f}, sparse {:.3f}, crowded {:.3f}".format(name, *parts))
assert right["by content"].mean() > right["one threshold"].mean() + 0.01
