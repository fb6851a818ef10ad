from offline.front import Findings, Latency, Trial, best, draw, front, page, survivors


def trial(name, ms, retained):
    return Trial(
        name=name, distill={}, latency=Latency(fp32=2 * ms, int8=ms, megabytes=1.0), texts=64, retained=retained, parameters=1000
    )


TRIALS = [trial("slow", 4, 0.99), trial("bad", 3, 0.5), trial("fast", 1, 0.9), trial("middle", 2, 0.95), trial("twin", 2, 0.94)]


def names(trials):
    return [trial.name for trial in trials]


def test_the_front_is_what_nothing_beats_in_both():
    assert names(front(TRIALS)) == ["fast", "middle", "slow"]
    for one in TRIALS:
        beaten = any(o.latency.served <= one.latency.served and o.retained > one.retained for o in TRIALS)
        assert beaten == (one not in front(TRIALS))


def test_survivors_come_front_by_front():
    assert set(names(survivors(TRIALS, 3))) == {"fast", "middle", "slow"}
    assert names(survivors(TRIALS, 4))[3] == "twin"
    assert names(survivors(TRIALS, 1)) == ["slow"]
    assert len(survivors(TRIALS, 99)) == 5


def test_the_best_is_within_the_budget():
    assert best(TRIALS, 2.5).name == "middle"
    assert best(TRIALS, 0.5) is None
    assert Latency(fp32=1.0, int8=None, megabytes=1.0).served == 1.0


def test_the_page_names_the_best_and_the_front_and_is_drawn(tmp_path):
    found = Findings(
        recipe="tiny",
        budget_ms=2.5,
        teacher_ms=8.0,
        quality="nDCG@10 on 300 training queries",
        latencies={trial.name: trial.latency for trial in TRIALS},
        trials=tuple(TRIALS),
        best="middle",
    )
    text = page(found)
    assert "the share of the teacher's nDCG@10 on 300 training queries after a short training" in text
    assert "on dev" not in text
    assert "the best within it is **middle**" in text
    assert "| **middle** | 4.000 | 2.000 | 4.0 | 1.0 | 0.00 M | 64 | 95.0% | yes |" in text
    assert "| twin | 4.000 | 2.000 | 4.0 | 1.0 | 0.00 M | 64 | 94.0% |  |" in text
    draw(found, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    untrained = page(found.model_copy(update={"best": None, "trials": ()}))
    assert "No candidate is within it, so none was trained: the fastest, fast, takes 1.000 ms." in untrained
    assert "| fast | 2.000 | 1.000 | 8.0 | 1.0 |" in untrained
    assert "front.png" not in untrained
    assert found.model_copy(update={"latencies": {}}).nearest == "no candidate could be built"
