import pytest
from make_findings import findings, proof

from offline.cost import Cost
from offline.errors import RecipeError
from offline.findings import Goal, Latency
from offline.goals import bounds_on, judge, judge_cost
from offline.recipe import Recipe, load_recipe

LATENCIES = tuple(
    Latency(tower=tower, p50_ms=p50 + 0.1, p99_ms=9.0, encode_p50_ms=p50, queries=100)
    for tower, p50 in (("teacher, fp32 ONNX", 4.0), ("student, fp32 ONNX", 1.0), ("student, as served", 0.8))
)


def toy(goals=None, goals_data="", data=None, **evaluate):
    return Recipe.model_validate(
        {"name": "toy", "data": data or {}, "evaluate": {"goals": goals or {}, "goals_data": goals_data, **evaluate}}
    )


def lines(pairs=6000, wanted=None, **changes):
    return {goal.name: goal.describe() for goal in judge(findings(latencies=LATENCIES, **changes), pairs, wanted or {})}


def test_goals_say_figure_bound_and_outcome():
    assert lines() == {
        "teacher_over_bm25_low": "GOAL teacher_over_bm25_low 0.0900 0 ok",
        "latency_ratio_fp32": "GOAL latency_ratio_fp32 4.0000 3 ok",
        "latency_ratio_served": "GOAL latency_ratio_served 5.0000 8 short",
        "retention_low": "GOAL retention_low 0.9610 0.985 short",
    }


@pytest.mark.parametrize(("layers", "bound"), [(0, 0.9), (1, 0.97), (2, 0.97), (3, 0.985), (6, 0.985)])
def test_retention_is_judged_by_the_student_s_layers(layers, bound):
    export = findings().export.model_copy(update={"layers": layers})
    assert lines(export=export)["retention_low"].split()[3] == f"{bound:g}"


def test_a_recipe_has_bounds_of_its_own():
    found = lines(wanted={"teacher_ndcg10": 0.6, "retention_low": 0.95})
    assert found["teacher_ndcg10"] == "GOAL teacher_ndcg10 0.6200 0.6 ok"
    assert found["retention_low"].endswith("0.95 ok")


def test_a_teacher_of_few_pairs_need_not_win():
    assert "teacher_over_bm25_low" not in lines(pairs=4999)


def test_nothing_is_judged_that_was_not_measured():
    assert judge(findings(proof=None, retention=None, latencies=()), 6000, {"teacher_ndcg10": 0.6}) == ()


def test_a_few_judged_queries_prove_nothing():
    found = lines(wanted={"teacher_ndcg10": 0.6}, proof=proof(queries=3))
    assert found["teacher_ndcg10"] == "GOAL teacher_ndcg10 0.6200 0.6 short (of 3 judged queries; 100 are the least)"
    assert {name for name, line in found.items() if "judged queries" in line} == {
        "teacher_ndcg10",
        "teacher_over_bm25_low",
        "retention_low",
    }
    assert "judged queries" not in "".join(lines(proof=proof(queries=100)).values())


def test_a_baseline_that_finds_nothing_is_not_beaten():
    (contrast,) = proof().contrasts
    found = lines(proof=proof(contrasts=(contrast.model_copy(update={"unanswered": 1001}),)))
    assert found["teacher_over_bm25_low"].endswith("short (bm25 finds no document at all for 1,001 of 2,000 queries)")
    found = lines(proof=proof(contrasts=(contrast.model_copy(update={"unanswered": 1000}),)))
    assert found["teacher_over_bm25_low"].endswith(" ok")


def test_a_student_without_layers_has_a_latency_to_reach():
    export = findings().export.model_copy(update={"layers": 0})
    assert lines(export=export)["latency_served_ms"] == "GOAL latency_served_ms 0.8000 0.1 short"
    assert lines(export=export, wanted={"latency_served_ms": 1.0})["latency_served_ms"].endswith(" 1 ok")


def test_what_a_run_took_is_judged_where_the_recipe_bounds_it():
    wanted = {"run_minutes": 60.0, "run_resident_gb": 8.0}
    found = [goal.describe() for goal in judge_cost(Cost(4500.0, 5_000_000_000), wanted)]
    assert found == ["GOAL run_minutes 75.0000 60 short", "GOAL run_resident_gb 5.0000 8 ok"]
    assert [goal.name for goal in judge_cost(Cost(60.0, None), wanted)] == ["run_minutes"]
    assert judge_cost(Cost(60.0, None), {}) == ()
    assert "run_minutes" in {goal.name for goal in judge(findings(), 6000, wanted, Cost(60.0, None))}


def test_a_bound_that_is_reached_is_met():
    assert Goal(name="x", figure=0.97, bound=0.97).is_met
    assert Goal(name="x", figure=60.0, bound=60.0, at_most=True).is_met
    assert not Goal(name="x", figure=0.0, bound=0.0, above=True).is_met, "nothing is not more than nothing"


def test_a_goal_that_nobody_knows_is_refused(tmp_path):
    (tmp_path / "toy.toml").write_text('name = "toy"\n[evaluate.goals]\nteacher_ndgc = 0.6\n')
    with pytest.raises(RecipeError, match=r"evaluate\.goals\.teacher_ndgc"):
        load_recipe(tmp_path / "toy.toml")


def test_a_recipe_s_bounds_are_of_its_data():
    config = toy({"teacher_ndcg10": 0.6}, "abc1")
    assert bounds_on("abc123", config) == ({"teacher_ndcg10": 0.6}, None)
    bounds, why = bounds_on("f" * 64, config)
    assert not bounds
    assert why.startswith("The recipe's own goals (teacher_ndcg10) are of other data")
    assert why.endswith("evaluate.goals_data is abc1, the sha256 of this data ffffffffffff.")
    assert bounds_on("", config)[1].endswith("not known.")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"max_documents": 120}}, "data.max_documents = 120"),
        ({"max_queries": 50}, "evaluate.max_queries = 50"),
        ({"split": "dev", "max_queries": 9}, "evaluate.max_queries = 9, evaluate.split = dev"),
    ],
)
def test_a_recipe_s_bounds_are_not_of_a_part_of_its_data(changes, said):
    bounds, why = bounds_on("abc123", toy({"teacher_ndcg10": 0.6}, "abc1", **changes))
    assert not bounds
    assert why.endswith(f"are of all of this data's test queries and not judged with {said}.")
    assert bounds_on("abc123", toy({"run_minutes": 60.0}, **changes)) == ({"run_minutes": 60.0}, None), "of any data"


def test_bounds_of_any_data_and_none_at_all_say_nothing():
    assert bounds_on("f", toy({"run_minutes": 60.0})) == ({"run_minutes": 60.0}, None)
    assert bounds_on("f", toy(goals_data="abc1")) == ({}, None)
