"""What each of two processes (gloo, no GPU) does in the tests of several: importable, as a process of its own needs it."""

import os
import signal
from datetime import timedelta
from pathlib import Path

import numpy as np
import tiny_training
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from offline import losses, stage_one, watch
from offline.batches import PairCollator, Pairs, Related
from offline.config import TrainConfig
from offline.distributed import gather, gather_objects, leave, world
from offline.errors import TrainingError
from offline.stage_one import join
from offline.stages import Source
from offline.towers import build_tower
from offline.walk import Walk
from snapshot.manifest import TextSpec

SPEC = TextSpec(max_tokens=16)
PAIRS = Pairs(
    ["one", "two two", "three", "four", "two two", "five"],
    ["a first text", "the second", "a third of them", "the fourth one here", "another second", "and the fifth of them"],
    np.array([0, 1, 2, 3, 6, 4]),
)
SHARES = [[0, 1, 2, 3], [4, 5]]
"""Of the first and of the second process: different numbers of texts, and a query whose two positives are apart."""
OPTIONS = {
    "symmetric": True,
    "learn_temperature": True,
    "matryoshka": (8,),
    "margin": 0.01,
    "mini_batch_size": 2,
    "precision": "fp32",
}


def learner_and_batch(backbone, chosen):
    torch.manual_seed(0)
    towers = tuple(build_tower(str(backbone)).eval() for _ in range(2))
    collate = PairCollator(*towers, SPEC, SPEC, PAIRS, Related.of(PAIRS))
    learner = join(towers, TrainConfig(backbone=str(backbone), **OPTIONS)).eval()
    return learner, collate([{"index": i} for i in chosen])


def gradients(module):
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def start(rank, folder):
    """Join the other process on this machine; they meet in a file."""
    os.environ.update(GLOO_SOCKET_IFNAME="lo", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # read by accelerate, used by nobody: they have met already
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(minutes=10))


def compare(rank, backbone, folder):
    """Loss and gradients of this process's share of the pairs, into ``folder/RANK.pt``."""
    start(rank, folder)
    learner, batch = learner_and_batch(backbone, SHARES[rank])
    wrapped = DistributedDataParallel(learner, find_unused_parameters=True)
    loss = wrapped(**batch)["loss"]
    loss.backward()
    assert gather_objects(rank) == [0, 1]
    assert gather(torch.full((rank + 1, 2), rank)).tolist() == [[0, 0], [1, 1], [1, 1]]
    assert gather(torch.full((1, rank + 1), 7)).tolist() == [[7, -1], [7, 7]]
    torch.save({"loss": loss.item(), "gradients": gradients(wrapped)}, Path(folder) / f"{rank}.pt")
    leave()


def train_together(rank, work):
    """The stage train by both; what each ends with, into ``work/RANK.pt``."""
    start(rank, work)
    seen = []
    keep = watch.keep_weights
    watch.best_of = lambda curve: curve[-1]  # whatever is measured, all weights are seen
    watch.keep_weights = lambda weights, path: (seen.append(weights), keep(weights, path))
    stage_one._weights = lambda learner: {name: weight.detach().clone() for name, weight in learner.named_parameters()}
    summary = tiny_training.run(Path(work), "train", train={"batch_size": 4, "epochs": 1, "learning_rate": 3e-3})
    torch.save({"weights": seen, "summary": summary}, Path(work) / f"{rank}.pt")
    leave()


def walk_together(rank, work):
    """Some stages of a walk as ``accelerate launch`` starts them; the first writes how many processes it takes itself for."""
    work = Path(work)
    start(rank, work)
    recipe = tiny_training.make_recipe(
        work / "bert", train={"epochs": 1, "batch_size": 4, "negatives": {"per_document": 0}}, distill={"epochs": 1}
    )
    walk = Walk(recipe, Source(data=work / "data"), work / "walk")
    for name in ("prepare", "train", "distill"):
        walk.run(name)
    assert "RANK" not in os.environ
    (work / "alone").write_text(f"{world()} {dist.is_initialized()}")


def one_dies(rank, work):
    """The stage train by both, of which the second is killed in its third step; what the first says, into ``work/told``."""
    start(rank, work)
    if rank == 1:
        losses.info_nce = after(losses.info_nce, calls=3)
    try:
        tiny_training.run(Path(work), "train", train={"batch_size": 4, "negatives": {"per_document": 0}})
    except TrainingError as error:
        (Path(work) / "told").write_text(str(error))


def after(function, calls):
    """``function``, and at call number ``calls`` a kill."""
    seen = []

    def dying(*arguments, **named):
        seen.append(None)
        if len(seen) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return dying
