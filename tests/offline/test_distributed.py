import re
import signal

import pytest
import torch
from forked import exit_codes
from tiny_models import make_tiny_bert
from tiny_training import curve_of, make_job
from tiny_walk import make_corpus, write_data
from two_processes import SHARES, compare, gradients, learner_and_batch, one_dies, train_together, walk_together

from offline.distributed import gather, gather_objects


@pytest.mark.slow
def test_two_processes_give_the_loss_and_the_gradients_of_one_with_the_whole_batch(tmp_path):
    backbone = make_tiny_bert(tmp_path / "bert")
    learner, batch = learner_and_batch(backbone, [*SHARES[0], *SHARES[1]])
    expected = learner(**batch)["loss"]
    expected.backward()
    assert exit_codes(compare, (0, backbone, tmp_path), (1, backbone, tmp_path)) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert found["gradients"].keys() == gradients(learner).keys()
        for name, gradient in gradients(learner).items():
            torch.testing.assert_close(found["gradients"][name], gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_two_processes_train_with_the_same_weights_and_one_of_them_writes(tmp_path):
    make_job(tmp_path, "train")
    assert exit_codes(train_together, (0, tmp_path), (1, tmp_path)) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["summary"] == second["summary"]
    assert len(first["weights"]) == len(curve_of(tmp_path / "train")) == 2  # the untouched ones, and those after seven steps
    for name, weights in first["weights"][-1].items():
        assert torch.equal(weights, second["weights"][-1][name]), name
        idle = name.endswith("log_temperature") or ".pooler." in name  # fixed, and not what is pooled
        assert idle or not torch.equal(weights, first["weights"][0][name]), name


@pytest.mark.slow
def test_after_the_towers_the_first_process_goes_on_alone_and_the_others_end(tmp_path):
    make_tiny_bert(tmp_path / "bert")
    write_data(tmp_path / "data", make_corpus(20))
    assert exit_codes(walk_together, (0, tmp_path), (1, tmp_path)) == [0, 0]
    assert (tmp_path / "alone").read_text() == "1 False"
    assert (tmp_path / "walk" / "distill" / "receipt.json").is_file()


@pytest.mark.slow
def test_a_process_that_dies_is_named(tmp_path):
    make_job(tmp_path, "train")
    assert exit_codes(one_dies, (0, tmp_path), (1, tmp_path))[1] == -signal.SIGKILL
    told = (tmp_path / "told").read_text()
    assert re.match(r"another process of this training died .* at step 3 of 14 .* Start the same command", told)


def test_alone_everything_stays_as_it_is():
    rows = torch.ones(2, 3)
    assert gather(rows) is rows
    assert gather_objects("it") == ["it"]
