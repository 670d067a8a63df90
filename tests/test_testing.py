"""Every row passes the checks, and norms that are broken on purpose fail the right one."""

from __future__ import annotations

import re
from pathlib import Path

import broken_norms as broken
import numpy as np
import pytest
from broken_norms import instance, row
from oracles import oracle
from workspace import run_script

from normlab.norms import NORMS, Norm
from normlab.norms.outside import add_norms
from normlab.testing import (
    CHECKS,
    GROUPS,
    LayerUnderTest,
    attempt,
    check_norm,
    claims,
    contract,
    degenerate,
    gradients,
    masks,
    numerics,
    usage,
)
from normlab.testing.layer import draw
from normlab.testing.result import Result, count, held, measured, off, table

ROOT = Path(__file__).resolve().parents[1]
BROKEN = str(ROOT / "tests" / "broken_norms.py")
PER_SAMPLE = row(broken.Plain, over=("H", "W", "C"), standard=False, invariant=())
EVALUATION = "evaluation uses the running statistics"
MEASURED = [group for group in CHECKS if group != "cost"]
REFUSED = "a statistic of one value is refused"
PLANTED = [
    (row(broken.WrongDivisor), claims.check_standard, {"their mean square is 1"}),
    (row(broken.ConstantMean), gradients.check_first, {"slope of the input"}),
    (row(broken.ConstantVariance), gradients.check_first, {"slope of the input"}),
    (row(broken.ConstantVariance), gradients.check_second, {"Hessian-vector product"}),
    (row(broken.ReverseOnly), gradients.check_second, {"second"}),
    (row(broken.CountsMasked), masks.check_padding, {"masked padding is not counted"}),
    (
        row(broken.ReadsMasked),
        masks.check_poison,
        {
            "masked NaN reaches nothing",
            "masked 1e30 reaches nothing",
            "masked inputs have slope 0",
        },
    ),
    (row(broken.ForgetsBlank), masks.check_poison, {"masked NaN reaches nothing"}),
    (row(broken.KeepsMasked), masks.check_poison, {"masked outputs are 0"}),
    (
        row(broken.NoValidValue),
        masks.check_extremes,
        {"nothing valid: all is finite", "nothing valid: running statistics do not move"},
    ),
    (row(broken.MovedAtInit), contract.check_initialising, {"initialising moves no statistics"}),
    (row(broken.MovedInEvaluation), contract.check_state, {"evaluating moves nothing"}),
    (row(broken.NeverMoved), contract.check_state, {"training moves running statistics"}),
    (row(broken.NeverMoved), contract.check_modes, {EVALUATION}),
    (row(broken.NoSquareRoot), contract.check_modes, {EVALUATION}),
    (
        row(broken.BatchInEvaluation),
        claims.check_examples,
        {"evaluating, no example feels another", "evaluating, no example feels NaN in another"},
    ),
    (row(broken.WrongMomentum), contract.check_state, {"momentum weighs the old statistics"}),
    (
        row(broken.KeepsWide),
        contract.check_dtypes,
        {"bfloat16 stays bfloat16", "float16 stays float16"},
    ),
    (row(broken.Plain, parameters=()), contract.check_signature, {"the parameters are the row's"}),
    (
        row(broken.Plain, running_statistics=False),
        contract.check_state,
        {"there are no running statistics"},
    ),
    (
        row(broken.OtherState),
        contract.check_signature,
        {"state is in batch_stats and norm_state"},
    ),
    (row(broken.WrongAxes), claims.check_reach, {"all values of a statistic feel it"}),
    (PER_SAMPLE, claims.check_reach, {"a value is felt within its statistic only"}),
    (
        PER_SAMPLE,
        claims.check_examples,
        {"training, no example feels another", "training, no example feels NaN in another"},
    ),
    (
        row(broken.Plain, over=("H", "W")),
        claims.check_invariances,
        {"invariant to shift", "invariant to scale"},
    ),
    (row(broken.NeverRefuses), degenerate.check_degenerate, {REFUSED}),
    (row(broken.NamesNothing), degenerate.check_degenerate, {REFUSED}),
    (
        row(broken.NeverMoved),
        usage.check_mutable,
        {"training without mutable statistics is refused"},
    ),
    (row(broken.Plain), usage.check_types, {"types"}),
    (row(broken.Plain), usage.check_ranks, {"ranks"}),
    (row(broken.Plain), usage.check_symbolic, {"symbolic"}),
    (row(broken.Plain), usage.check_one_example, {"one example"}),
    (row(broken.Plain), usage.check_empty, {"empty"}),
    (row(broken.Plain), usage.check_limits, {"options out of range are refused"}),
    (row(broken.Plain), usage.check_remat, {"remat"}),
    (
        row(broken.Plain),
        usage.check_masks,
        {"a mask of numbers is refused", "a mask of two readings is refused"},
    ),
    (instance(broken.SharedStart), usage.check_donation, {"no two variables share an array"}),
    (
        instance(broken.CompiledAtEachCall),
        usage.check_eager,
        {"a second eager call compiles nothing"},
    ),
    (
        instance(broken.WidensState),
        usage.check_wide_state,
        {"the state keeps its type for float64"},
    ),
    (
        row(broken.MovedByOneValue),
        usage.check_few_values,
        {"one valid value moves no statistics"},
    ),
    (
        row(broken.NoAxisName, arguments=("axis_name",)),
        usage.check_vmapped_examples,
        {"vmapped examples"},
    ),
    (row(broken.Plain), numerics.check_hard_cases, {"U(2e38,3e38): finite"}),
    (
        row(broken.HalfStatistics),
        numerics.check_half,
        {"bfloat16 N(10,1), output", "float16 N(10,1), output"},
    ),
]

ZEROS = "finite: outputs of a ReLU"
BLANK = {f"finite: 0 {where}" for where in ("in all examples", "in an example", "at a position")}
ALL, ONE, CHANNEL, SMALL = (
    f"in {part}" for part in ("all examples", "an example", "a channel", "a channel of an example")
)


def flat(*places: str) -> set[str]:
    """Checks of inputs that are 0, or the same value, at these places."""
    return {f"finite: {what} {place}" for what in ("0", "the same value") for place in places}


UNGUARDED = [
    (broken.ScaleNorm, BLANK),
    (broken.RootOfVariance, flat(ALL, ONE, CHANNEL, SMALL)),
    (broken.RootOfBatch, flat(ALL, CHANNEL)),
    (
        broken.SignedRoot,
        {*BLANK, *(f"finite: 0 {p}" for p in (CHANNEL, SMALL)), "finite: outputs of a ReLU"},
    ),
    (
        broken.LearnedPower,
        {*BLANK, *(f"finite: 0 {p}" for p in (CHANNEL, SMALL)), "finite: outputs of a ReLU"},
    ),
    (broken.OnePass, {"finite: a value of 1e+30"}),
]


@pytest.fixture
def add(monkeypatch):
    """Put a row into the table for one test; returns its name."""

    def put(norm: Norm) -> str:
        monkeypatch.setitem(NORMS, "planted", norm)
        return "planted"

    return put


def failed(results: list[Result]) -> dict[str, str]:
    return {r.name: r.note for r in results if r.status == "fail"}


@pytest.mark.parametrize(
    ("norm", "check", "expected"), PLANTED, ids=[f"{n.title}-{c.__name__}" for n, c, _ in PLANTED]
)
def test_a_broken_norm_fails_where_it_is_broken(add, norm, check, expected):
    assert set(failed(attempt(check, LayerUnderTest(add(norm))))) == expected


@pytest.mark.parametrize(
    ("module", "expected"), UNGUARDED, ids=lambda v: getattr(v, "__name__", "")
)
def test_slopes_that_end_a_training_are_caught(add, module, expected):
    """Each passes the checks on ordinary values."""
    subject = LayerUnderTest(add(row(module, over=("C",), options=("epsilon",))))
    assert set(failed(gradients.check_finite(subject))) == expected
    assert not failed(numerics.check_ordinary(subject))


def test_a_row_without_masks_gets_none_and_is_not_checked_with_them(add):
    """Its variables are those of the module alone."""
    claims = {"over": ("C",), "parameters": ("scale",), "running_statistics": False}
    name = add(row(broken.WithoutMask, **claims, options=("epsilon",), takes_masks=False))
    skips = [r.name for r in check_norm(name, checks=("masks", "usage")) if "takes_" in r.note]
    groups = [f"masks: {part}" for part in ("poison", "padding", "shapes", "extremes")]
    assert skips == [*groups, "usage: masks"]
    mask, mine, rms = masks.some_mask(), LayerUnderTest(name), LayerUnderTest("rms")
    found = mine.forward(rms.variables, draw(), mask)
    assert np.allclose(found, rms.forward(rms.variables, draw()), atol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_every_row_passes_every_check(name):
    """With the float64 oracle that was written from its paper."""

    def right(x, epsilon):
        return oracle(name, x, epsilon=epsilon, groups=GROUPS)

    results = check_norm(name, oracle=right, checks=MEASURED)
    assert not failed(results), table([r for r in results if r.status == "fail"])
    assert not [r for r in results if r.status == "skip" and not r.note]


def test_a_good_norm_passes_everything(add):
    results = check_norm(add(broken.GOOD), checks=MEASURED)
    assert not failed(results), table(results)
    assert count(results, "pass") > 40


def test_the_example_of_the_docs_passes():
    """And the table there shows claims that there are."""
    text = (ROOT / "docs" / "your_own_norm.md").read_text(encoding="utf-8")
    shown = text.partition("my_norm (peak norm)\n")[2].partition("```")[0].splitlines()
    before = set(NORMS)
    try:
        add_norms([str(ROOT / "docs" / "examples" / "my_norm.py")])
        results = check_norm("my_norm", checks=MEASURED)
    finally:
        for name in set(NORMS) - before:
            del NORMS[name]
    assert not failed(results), table(results)
    claimed = {r.name for r in results} | {"devices: a batch on 8 devices"}
    for line in shown[1:-1]:
        name = re.split(r"  +", line)[0]
        assert line == "..." or name in claimed or name.startswith("cost: "), line
    told = re.search(r"(\d+) pass, 0 fail, (\d+) skip", shown[-1])
    assert told and int(told[1]) + int(told[2]) == len(results)


def test_squares_that_cancel_are_caught_at_a_large_mean(add):
    subject = LayerUnderTest(add(row(broken.Cancels, exact=True)))
    assert not failed(numerics.check_ordinary(subject))
    expected = {"mean 1e4 std 1", "mean 1e8 std 1", "mean 1 std 1e-4 eps 1e-12"}
    assert expected <= set(failed(numerics.check_hard_cases(subject)))


def by_paper(x, epsilon):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axes)) / np.sqrt(x.var(axes) + epsilon)


def test_a_row_that_claims_nothing_is_held_to_the_oracle(add):
    name = add(row(broken.WrongDivisor, standard=False, invariant=()))
    assert not failed(numerics.check_ordinary(LayerUnderTest(name)))
    assert set(failed(numerics.check_ordinary(LayerUnderTest(name, by_paper)))) == {
        "N(0.5,1), output"
    }


def test_a_layer_in_float32_alone_needs_a_reference(add):
    found = failed(
        numerics.check_ordinary(LayerUnderTest(add(row(broken.AlwaysFloat32, standard=False))))
    )
    assert "(x, epsilon) -> y" in found["N(0.5,1), against float64"]
    subject = LayerUnderTest(add(row(broken.AlwaysFloat32, standard=False, reference=by_paper)))
    assert [r.status for r in numerics.check_ordinary(subject)] == ["pass", "pass"]
    assert {r.status for r in gradients.check_first(subject)} == {"skip"}


def test_what_raises_has_failed_in_one_line(add):
    found = failed(check_norm(add(row(broken.NoMask)), checks=("contract", "masks")))
    assert len(found) == len(CHECKS["contract"]) + len(CHECKS["masks"])
    assert all("TypeError: " in note and "\n" not in note for note in found.values())


def test_results():
    assert measured("a", 1.0, 1.0).status == "pass"
    assert measured("a", float("nan"), 1.0, "why").status == "fail"
    assert held("a", True, "why") == Result("a", "pass")
    assert off([1.0, 2.0], [1.0, 2.0]) == 0 and off([0.1], [0.0]) == pytest.approx(100)
    assert np.isnan(off([np.inf], [1.0])) and off([3.0], [2.0]) == 0.5
    lines = table([measured("long name", 0.123, 1.0), Result("b", "skip", note="no")]).split("\n")
    assert [line.split() for line in lines] == [
        ["check", "result", "measured", "limit", "note"],
        ["long", "name", "pass", "0.12", "1"],
        ["b", "skip", "no"],
    ]


def test_the_script_passes_a_good_norm_on_8_devices():
    done = run_script("check_norm", BROKEN, "--name=good_norm", "--checks=claims,devices")
    assert (done.returncode, done.stderr) == (0, "")
    assert "devices: a batch on 8 devices pass" in " ".join(done.stdout.split())
    assert "good_norm: " in done.stdout and "wrong_divisor" not in done.stdout


def test_the_script_fails_a_file_with_a_broken_norm():
    done = run_script("check_norm", BROKEN, "--checks=claims")
    assert (done.returncode, done.stderr) == (1, "")
    assert "good_norm: 10 pass, 0 fail" in done.stdout
    assert "wrong_divisor: 7 pass, 1 fail" in done.stdout


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "give one file, or --builtin="),
        (["a.py", "--builtin=batch"], "give one file, or --builtin="),
        (["nowhere.py"], "norm file 'nowhere.py' cannot be read"),
        (["--builtin=bach"], "there is no norm 'bach' (norms: none, affine"),
        (["--builtin=batch", "--checks=speed"], "no checks 'speed' (checks: contract"),
        (["--colour"], "Unknown command line flag 'colour'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flags, told):
    done = run_script("check_norm", *flags)
    assert done.returncode == 2 and not done.stdout
    assert told in done.stderr and done.stderr.count("\n") == 1
