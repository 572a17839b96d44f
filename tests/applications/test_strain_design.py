"""Strain designs against the enumeration of all designs by plain linear programs."""

import itertools
import sys

import numpy as np
import pytest
from scipy.optimize import linprog

import bilevel as bl
from bilevel.applications.metabolic_model import MetabolicModel, load_model
from bilevel.applications.strain_design import envelope, evaluate, strain_design

metabolic = pytest.mark.metabolic

# What each coupling maximizes, as evaluate names it.
FIGURE = {"weak": "promised", "pessimistic": "pessimistic", "strong": "guaranteed"}
SUCCINATE = {"product": "succ_e", "anaerobic": True}
TABLE = {
    (1, "weak"): 6.968,
    (1, "pessimistic"): 0.678,
    (1, "strong"): 0.188,
    (2, "weak"): 9.102,
    (2, "pessimistic"): 9.102,
    (2, "strong"): 6.735,
    (3, "weak"): 9.911,
    (3, "pessimistic"): 9.911,
    (3, "strong"): 9.399,
}


@pytest.fixture(scope="module")
def core():
    """Return the core model of E. coli."""
    pytest.importorskip("cobra", reason="needs the extra `metabolic` (cobra)")
    return load_model()


def toy(r1_yield=1.0, upper=(10, 10, 10, 10, 10), **changes):
    """Return the cell of T14: A becomes X by r1, or X and the product P by r2; X is growth."""
    arguments = {
        "reactions": ("EX_A", "r1", "r2", "growth", "EX_P"),
        "metabolites": ("A", "X", "P"),
        "S": [[-1, -1, -1, 0, 0], [0, r1_yield, 1, -1, 0], [0, 0, 1, 0, -1]],
        "lower": [-10, 0, 0, 0, 0],
        "upper": upper,
        "has_gene": [False, True, True, False, False],
        "biomass": "growth",
    }
    return MetabolicModel(**{**arguments, **changes})


def toy_design(model=None, **changes):
    """Return a design problem on the toy network."""
    arguments = {"product": "P", "n_knockouts": 1, "growth_floor": 5.0, **changes}
    return strain_design(model or toy(), **arguments)


def best(design, size):
    """Return the best value of each coupling over all designs up to a size, by enumeration."""
    names = np.array(design.cell.reactions)[design.cell.has_gene].tolist()
    sets = [s for k in range(size + 1) for s in itertools.combinations(names, k)]
    strains = [evaluate(design, s) for s in sets]
    able = [strain for strain in strains if strain.guaranteed is not None]
    return {coupling: max(getattr(s, figure) for s in able) for coupling, figure in FIGURE.items()}


# ------------------------------------------------------------------ the toy network, without cobra


@pytest.mark.parametrize(
    ("r1_yield", "knockouts", "expected"),
    [
        (1.0, [], (10, 10, 0, 0)),
        (0.8, [], (10, 10, 10, 0)),
        (1.0, ["r1"], (10, 10, 10, 5)),
        (1.0, ["r1", "r2"], (0, 0, 0, None)),
    ],
)
def test_toy_is_evaluated_as_in_the_spec(r1_yield, knockouts, expected):
    strain = evaluate(toy_design(toy(r1_yield)), knockouts)
    figures = (strain.growth, strain.promised, strain.pessimistic, strain.guaranteed)
    assert figures == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("n_knockouts", "coupling", "expected", "knockouts"),
    [
        (0, "weak", 10, ()),
        (0, "pessimistic", 0, ()),
        (0, "strong", 0, ()),
        (1, "pessimistic", 10, ("r1",)),
        (1, "strong", 5, ("r1",)),
        (2, "strong", 5, ("r1",)),
    ],
)
def test_toy_is_designed_as_in_the_spec(n_knockouts, coupling, expected, knockouts):
    design = toy_design(n_knockouts=n_knockouts, coupling=coupling)
    solution = bl.solve(design.problem)
    assert solution.status is bl.Status.OPTIMAL
    assert solution.leader_value == pytest.approx(expected, abs=1e-6)
    assert design.knockouts(solution) == knockouts
    fluxes = design.fluxes(solution)
    assert design.cell.S @ np.array(list(fluxes.values())) == pytest.approx(0, abs=1e-6)
    assert fluxes["EX_P"] == pytest.approx(expected, abs=1e-6)


def test_infinite_bounds_become_finite_or_are_left_out():
    infinite = toy(upper=[np.inf] * 5)
    solution = bl.solve(toy_design(infinite, coupling="strong").problem)
    assert solution.leader_value == pytest.approx(5, abs=1e-6)


def test_a_reversed_exchange_produces_by_negative_flux():
    cell = toy(
        S=[[-1, -1, -1, 0, 0], [0, 1, 1, -1, 0], [0, 0, 1, 0, 1]],
        lower=[-10, 0, 0, 0, -10],
        upper=[10, 10, 10, 10, 0],
    )
    design = toy_design(cell, coupling="strong")
    solution = bl.solve(design.problem)
    assert solution.leader_value == pytest.approx(5, abs=1e-6)
    assert design.fluxes(solution)["EX_P"] == pytest.approx(-5, abs=1e-6)


def test_envelope_of_the_toy():
    shape = envelope(toy_design(), ["r1"], n=3)
    assert shape.growth == pytest.approx([0, 5, 10], abs=1e-7)
    assert shape.least == pytest.approx([0, 5, 10], abs=1e-6)
    assert shape.most == pytest.approx([0, 5, 10], abs=1e-6)


LOOP = {
    "reactions": ("EX_A", "r1", "r2", "growth", "EX_P", "there", "back"),
    "S": [[-1, -1, -1, 0, 0, 1, -1], [0, 1, 1, -1, 0, -1, 1], [0, 0, 1, 0, -1, 0, 0]],
    "lower": [-10, 0, 0, 0, 0, 0, 0],
    "upper": [10, 10, 10, 10, 10, np.inf, np.inf],
    "has_gene": [False, True, True, False, False, False, True],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"product": "Q"}, "no reaction 'Q'"),
        ({"product": "EX_Q"}, "did you mean EX_"),
        ({"model": toy(upper=[10, 10, 10, 10, 0])}, "'EX_P'.* cannot be made"),
        ({"growth_floor": 11}, "at most 10 /h"),
        ({"growth_floor": -1}, "growth_floor"),
        ({"growth_floor": np.nan}, "growth_floor"),
        ({"candidates": []}, "No reaction can be removed: of 0"),
        ({"candidates": ["EX_A"]}, "essential"),
        ({"candidates": ["r9"]}, "no reaction 'r9'"),
        ({"biomass": "grow"}, "did you mean growth"),
        ({"model": toy(biomass=None)}, "biomass="),
        ({"medium": {"B": 1}}, "no reaction 'B'"),
        ({"medium": {"A": -1}}, "'A' must be a nonnegative number"),
        ({"medium": {"A": np.nan}}, "'A' must be a nonnegative number"),
        ({"medium": {"r1": 1}}, "'r1' in the medium does not exchange"),
        ({"medium": {"A": 0}}, "at most 0 /h"),
        ({"anaerobic": True}, "no exchange of oxygen"),
        ({"coupling": "firm"}, "coupling must be one of"),
        ({"n_knockouts": -1}, "n_knockouts"),
        ({"n_knockouts": 1.5}, "n_knockouts"),
        ({"n_knockouts": True}, "n_knockouts"),
        ({"model": toy(lower=[-10, 0, 0, 20, 0], upper=[10, 10, 10, 30, 10])}, "no steady state"),
        ({"model": toy(**LOOP)}, "candidate 'back' is unbounded"),
    ],
)
def test_bad_input_is_named(change, words):
    arguments = {"model": toy(), "product": "P", "n_knockouts": 1, "growth_floor": 5.0, **change}
    with pytest.raises(bl.ProblemError, match=words):
        strain_design(**arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"S": np.zeros((2, 5))}, "S of shape"),
        ({"lower": [0, 0, 0, 11, 0]}, "'growth' has a lower bound of 11"),
        ({"lower": [0, 0, 0, np.nan, 0]}, "NaN"),
        ({"reactions": ("a", "a", "b", "c", "d")}, "same id"),
    ],
)
def test_malformed_models_are_refused(change, words):
    with pytest.raises(bl.ProblemError, match=words):
        toy(**change)


def test_unknown_knockouts_and_dead_cells_are_named():
    with pytest.raises(bl.ProblemError, match="did you mean"):
        evaluate(toy_design(), ["r3"])
    with pytest.raises(bl.ProblemError, match="at least 2"):
        envelope(toy_design(), n=1)
    # Maintenance of 1 that the strain without both routes cannot pay.
    needy = toy_design(toy(lower=[-10, 0, 0, 1, 0]))
    assert evaluate(needy, ["r1", "r2"]).growth is None
    with pytest.raises(bl.ProblemError, match="Without r1, r2"):
        envelope(needy, ["r1", "r2"])


def test_without_cobra_the_install_line_is_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "cobra", None)
    with pytest.raises(bl.BackendNotFound, match=r"pip install .*bilevel\[metabolic\]"):
        strain_design(product="succ_e", n_knockouts=1)


# ------------------------------------------------------------------------ the network of E. coli


@metabolic
def test_evaluation_agrees_with_cobra(core):
    cobra = pytest.importorskip("cobra")
    model = cobra.io.load_model("textbook")
    design = strain_design(model, n_knockouts=1, **SUCCINATE)
    model.reactions.EX_o2_e.lower_bound = 0
    for knockouts in ([], ["PYK"], ["ALCD2x", "LDH_D"]):
        with model:
            for reaction in knockouts:
                model.reactions.get_by_id(reaction).knock_out()
            strain = evaluate(design, knockouts)
            assert strain.growth == pytest.approx(model.slim_optimize(), abs=1e-6)
            model.reactions.Biomass_Ecoli_core.lower_bound = 0.05
            model.objective = "EX_succ_e"
            model.objective_direction = "min"
            assert strain.guaranteed == pytest.approx(model.slim_optimize(), abs=1e-5)


@metabolic
def test_removing_pyruvate_kinase_promises_much_and_guarantees_nothing(core):
    strain = evaluate(strain_design(core, n_knockouts=1, **SUCCINATE), ["PYK"])
    assert strain.promised == pytest.approx(6.96815, abs=1e-4)
    assert strain.pessimistic == pytest.approx(0, abs=1e-6)
    assert strain.guaranteed == pytest.approx(0, abs=1e-6)


@metabolic
def test_single_knockouts_enumerated_give_the_published_row(core):
    values = best(strain_design(core, n_knockouts=1, **SUCCINATE), 1)
    expected = {coupling: TABLE[1, coupling] for coupling in FIGURE}
    assert values == pytest.approx(expected, abs=5e-4)


@metabolic
@pytest.mark.slow
def test_double_knockouts_enumerated_give_the_published_row(core):
    values = best(strain_design(core, n_knockouts=2, **SUCCINATE), 2)
    expected = {coupling: TABLE[2, coupling] for coupling in FIGURE}
    assert values == pytest.approx(expected, abs=5e-4)


def answer(design, knockouts):
    """Return growth, promised and least production of the problem's own, reduced follower."""
    form = design.problem.compile()
    rows, columns = form.followers[0].rows, form.columns
    k = np.isin(design.candidates, knockouts).astype(float)
    lower, upper = np.full(form.n, -np.inf), np.full(form.n, np.inf)
    lower[columns.integer] = upper[columns.integer] = k
    program = {
        "A_ub": rows.A[~rows.equality],
        "b_ub": rows.b[~rows.equality],
        "A_eq": rows.A[rows.equality],
        "b_eq": rows.b[rows.equality],
    }
    first = linprog(form.followers[0].objective.c, bounds=np.c_[lower, upper], **program)
    if first.status != 0:
        return None
    c = form.objective.c
    # The follower's value, held up to the tolerance of the programs.
    program["A_ub"] = np.vstack([program["A_ub"].toarray(), form.followers[0].objective.c])
    program["b_ub"] = np.append(program["b_ub"], first.fun + 1e-10)
    ends = [linprog(sign * c, bounds=np.c_[lower, upper], **program) for sign in (1, -1)]
    return -first.fun, -ends[0].fun, ends[1].fun


@metabolic
@pytest.mark.parametrize("coupling", ["weak", "strong"])
@pytest.mark.parametrize("medium", [{"o2_e": 0}, {"glc__D_e": 0, "fru_e": 10}])
def test_the_reduced_network_answers_like_the_whole_one(core, coupling, medium):
    design = strain_design(core, product="succ_e", n_knockouts=4, coupling=coupling, medium=medium)
    rng = np.random.default_rng(0)
    n_able = 0
    for size in [0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4]:
        groups = rng.choice(len(design.candidates), size, replace=False)
        names = [design.candidates[j] for j in groups]
        others = [str(rng.choice(design.alternatives[name])) for name in names]
        strain, found = evaluate(design, others), answer(design, names)
        able = strain.guaranteed is not None
        n_able += able
        if coupling == "strong":
            assert (found is not None) == able
            if able:
                assert -found[0] == pytest.approx(-strain.guaranteed, abs=1e-5)
        elif able:
            expected = (strain.growth, strain.promised, strain.pessimistic)
            assert found == pytest.approx(expected, abs=1e-5)
        else:
            assert found is None or found[0] < design.growth_floor - 1e-6
    assert n_able >= 5


@metabolic
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"product": "pyr_c"}, "exchanged with the surroundings by 0 reactions"),
        ({"product": "succ"}, "did you mean"),
        ({"product": "fru_e"}, "'EX_fru_e'.* cannot be made"),
        ({"medium": {"EX_glc_e": 10}}, "no reaction 'EX_glc_e'; did you mean EX_glc__D_e"),
        ({"medium": {"glc__D_e": 0}}, "no steady state"),
        ({"growth_floor": 0.3}, "at most 0.211663 /h"),
        ({"candidates": ["ENO", "CYTBD"]}, "of 2 candidates"),
    ],
)
def test_bad_input_on_the_core_model_is_named(core, change, words):
    with pytest.raises(bl.ProblemError, match=words):
        strain_design(core, **{"n_knockouts": 1, **SUCCINATE, **change})


@metabolic
def test_the_problem_is_small(core):
    design = strain_design(core, n_knockouts=3, **SUCCINATE)
    form = design.problem.compile()
    assert (len(design.candidates), form.n, len(form.followers[0].rows)) == (37, 94, 112)
    assert design.alternatives["ACKr"] == ("ACKr", "PTAr")


@metabolic
@pytest.mark.parametrize("coupling", FIGURE)
@pytest.mark.parametrize("n_knockouts", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_published_table_is_solved(core, n_knockouts, coupling):
    design = strain_design(core, n_knockouts=n_knockouts, coupling=coupling, **SUCCINATE)
    solution = bl.solve(design.problem)
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    assert solution.leader_value == pytest.approx(TABLE[n_knockouts, coupling], abs=5e-4)
    knockouts = design.knockouts(solution)
    assert len(knockouts) <= n_knockouts
    strain = evaluate(design, knockouts)
    assert getattr(strain, FIGURE[coupling]) == pytest.approx(solution.leader_value, abs=1e-5)
    fluxes = design.fluxes(solution)
    assert all(abs(fluxes[reaction]) < 1e-6 for reaction in knockouts)
    assert fluxes[design.product] == pytest.approx(solution.leader_value, abs=1e-5)


OTHERS = {
    "ethanol": {"product": "EX_etoh_e", "anaerobic": True},
    "lactate": {"product": "lac__D_e", "anaerobic": True},
    "acetate with oxygen": {"product": "ac_e"},
    "formate on fructose": {"product": "for_e", "medium": {"glc__D_e": 0, "fru_e": 10}},
    "succinate, little oxygen": {"product": "succ_e", "medium": {"o2_e": 5}},
    "carbon dioxide, fast growth": {"product": "EX_co2_e", "growth_floor": 0.4},
}


@metabolic
@pytest.mark.parametrize("case", OTHERS)
def test_other_products_and_media_agree_with_enumeration(core, case):
    design = strain_design(core, n_knockouts=1, **OTHERS[case])
    expected = best(design, 1)
    for coupling in FIGURE:
        design = strain_design(core, n_knockouts=1, coupling=coupling, **OTHERS[case])
        solution = bl.solve(design.problem)
        assert solution.status is bl.Status.OPTIMAL
        assert solution.leader_value == pytest.approx(expected[coupling], abs=1e-5)


@metabolic
def test_models_come_from_files_names_and_cobra(core, tmp_path):
    cobra = pytest.importorskip("cobra")
    path = tmp_path / "core.json"
    cobra.io.save_json_model(cobra.io.load_model("textbook"), path)
    for model in (path, str(path), "textbook"):
        again = load_model(model)
        assert again.reactions == core.reactions
        assert abs(again.S - core.S).max() == 0
        assert again.biomass == core.biomass == "Biomass_Ecoli_core"


@metabolic
@pytest.mark.parametrize("model", ["no_such_model", "missing/core.xml", 7])
def test_models_that_cannot_be_read_are_named(core, model):
    with pytest.raises(bl.ProblemError, match="model"):
        load_model(model)


@metabolic
def test_a_model_without_growth_reaction_asks_for_it(core):
    cobra = pytest.importorskip("cobra")
    model = cobra.io.load_model("textbook")
    model.objective = [model.reactions.PGI, model.reactions.Biomass_Ecoli_core]
    with pytest.raises(bl.ProblemError, match="biomass="):
        strain_design(model, n_knockouts=1, **SUCCINATE)
    named = strain_design(model, n_knockouts=1, biomass="Biomass_Ecoli_core", **SUCCINATE)
    assert named.biomass == "Biomass_Ecoli_core"
