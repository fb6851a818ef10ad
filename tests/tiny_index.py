"""The stage ``index`` on a toy tower: what the stages before it would have left."""

import json

import numpy as np
import pyarrow as pa
from make_snapshot import fingerprint, make_oracle, write_tower

from offline.config import IndexConfig
from offline.data.prepared import QUERIES, TEXTS, write_table
from offline.recipe import Recipe
from offline.stages import Job, Source
from snapshot.layout import Layout
from snapshot.manifest import TextSpec


def make_job(tmp_path, rows, **index):
    oracle = make_oracle(rows)
    folders = {name: tmp_path / name for name in ("prepare", "encode", "export", "index")}
    (folders["encode"] / "shards").mkdir(parents=True)
    folders["export"].mkdir()
    folders["index"].mkdir(exist_ok=True)
    half = rows // 2
    np.save(folders["encode"] / "shards" / "00000.npy", oracle.documents[:half])
    np.save(folders["encode"] / "shards" / "00001.npy", oracle.documents[half:])
    queries = [" ".join(text.split()[:3]) for text in oracle.texts]
    table = {"id": list(map(str, range(rows))), "text": queries, "split": ["test"] * rows}
    write_table(pa.table(table, schema=QUERIES), folders["prepare"] / "queries.arrow")
    write_table(pa.table({"text": [], "source": []}, schema=TEXTS), folders["prepare"] / "texts.arrow")
    tower = Layout(tmp_path / "tower")
    write_tower(tower, oracle.table, fingerprint(0))
    tower.model.rename(folders["export"] / "model.onnx")
    tower.tokenizer.rename(folders["export"] / "tokenizer.json")
    report = {
        "name": "fp32",
        "precision": "fp32",
        "reason": "",
        "trials": [],
        "layers": 0,
        "parameters": 0,
        "pad_token_id": 0,
        "dim": 16,
    }
    (folders["export"] / "export.json").write_text(json.dumps(report))
    recipe = Recipe(name="toy", index=IndexConfig(**index))
    recipe = recipe.model_copy(update={"text": recipe.text.model_copy(update={"query": TextSpec(max_tokens=12)})})
    return oracle, queries, Job(recipe, Source(), folders.pop("index"), folders)
