"""One example of each class must do: the weights from which a network adapts are learned.

Meta-learning with implicit gradients (Rajeswaran et al., 2019): the follower adapts a network to a
task's three examples and stays near the leader's weights, which the leader chooses for the loss on
other samples of many tasks. They are judged on digits that nobody trained on.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import bilevel as bl
from bilevel.adjoints import Implicit
from bilevel.learning import fit
from bilevel.solvers.smooth import Newton

X, digits = load_digits(return_X_y=True)
turned = [np.rot90(X.reshape(-1, 8, 8) / 16, k, (1, 2)) for k in range(4)]
turned += [images[:, :, ::-1] for images in turned]  # a digit in eight positions is eight classes
X, classes = torch.tensor(np.concatenate(turned).reshape(-1, 64)), np.tile(digits, 8)
classes = classes + 10 * np.repeat(np.arange(8), len(digits))
known, unknown = (np.arange(80)[np.arange(80) % 10 // 6 == part] for part in (0, 1))
rng = np.random.default_rng(0)


def tasks(among, count):
    """Return rows of three classes each, shape (count, 3, 11); the first of each is shown."""
    draw = lambda one: rng.choice(np.flatnonzero(classes == one), 11, replace=False)  # noqa: E731
    drawn = [[draw(one) for one in rng.choice(among, 3, replace=False)] for _ in range(count)]
    return torch.tensor(np.array(drawn))


def logits(w, rows):
    return torch.tanh(X[rows] @ w["V"] + w["b"].unsqueeze(-2)) @ w["W"]


def loss(w, rows):
    labels = torch.arange(3)[:, None].expand(rows.shape).flatten()
    return cross_entropy(logits(w, rows.flatten(1)).flatten(0, 1), labels)


near = lambda x, w: sum((w[name] - x[name]).square().sum() for name in x) / 2  # noqa: E731
adapting = lambda x, w, rows: len(rows) * loss(w, rows) + near(x, w)  # noqa: E731
problem = bl.SmoothProblem(lambda x, w, rows: loss(w, rows), adapting)


class Start(torch.nn.Module):  # returns the networks that adapt from its weights
    def __init__(self, V, b, W):
        super().__init__()
        self.x = torch.nn.ParameterDict({"V": V, "b": b, "W": W})

    def forward(self, tasks):
        shown, x = tasks[:, :, :1], dict(self.x)
        copies = {name: value.expand(len(tasks), *value.shape) for name, value in x.items()}
        w = Newton(atol=1e-6).answer(problem, x, copies, shown)
        return Implicit(rtol=1e-6).attach(problem, x, w, shown)


def accuracy(model, tasks):
    guess = logits(model(tasks), tasks[:, :, 1:].flatten(1)).argmax(-1)
    return float((guess == torch.arange(3).repeat_interleave(10)).double().mean())


V, W = (torch.tensor(0.3 * rng.standard_normal(shape)) for shape in ((64, 16), (16, 3)))
starts = {name: Start(V.clone(), 0 * V[0], W.clone()) for name in ("random", "meta-learned")}
queries = lambda model, rows: loss(model(rows), rows[:, :, 1:])  # noqa: E731
told = {"optimizer": lambda parts: torch.optim.Adam(parts, lr=0.01), "progress": False}
fit(starts["meta-learned"], queries, tasks(known, 480), batch_size=6, epochs=1, **told)
torch.manual_seed(0)  # One network learns all known classes; tasks start from its first layer.
rows = torch.tensor(np.flatnonzero(np.isin(classes, known)))
joint = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 80))
data, plain = (X[rows], torch.tensor(classes)[rows]), lambda net, x, y: cross_entropy(net(x), y)
fit(joint.double(), plain, data, batch_size=100, epochs=5, **told)
starts["pretrained jointly"] = Start(joint[0].weight.detach().mT, joint[0].bias.detach(), 0 * W)
judged = tasks(known, 100), tasks(unknown, 100)
right = {name: [accuracy(start, part) for part in judged] for name, start in starts.items()}
for name, (old, new) in right.items():
    print(f"{name:18} accuracy {old:.3f} on classes seen, {new:.3f} on others")
assert right["meta-learned"][1] > right["random"][1] + 0.05
