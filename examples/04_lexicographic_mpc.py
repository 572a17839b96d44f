"""A cart returns to where it may be as fast as it can, and only then saves
effort.
"""

import numpy as np

import bilevel as bl
from bilevel.applications.lexicographic_mpc import lexicographic_mpc

mpc = lexicographic_mpc(
    [[1, 1], [0, 1]],
    [[0.5], [1]],
    5,
    input_limit=1,
    state_limit=[1, np.inf],
    Q=0.1 * np.eye(2),
)
state = np.array([3.0, 0.0])
path = [state]
for step in range(8):
    # The state is a parameter: the problem is compiled once.
    solution = bl.solve(mpc.problem, parameters={mpc.state: state})
    u = mpc.first_input(solution)
    print(
        f"step {step}: position {state[0]:6.3f}, speed {state[1]:6.3f}, "
        f"input {u[0]:6.3f}, violation to come {mpc.violation(solution):.3f}"
    )
    assert solution.status is bl.Status.OPTIMAL
    state = mpc.A @ state + mpc.B @ u
    path.append(state)

# From 3 at rest, with inputs of at most 1, the first step ends at 2.5 or more,
# and no later one has to be outside: exactly this violation is suffered.
positions = np.array(path)[1:, 0]
assert abs(np.maximum(abs(positions) - 1, 0).sum() - 1.5) < 1e-5
