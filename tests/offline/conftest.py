"""A small folder in BEIR layout that has everything: three splits, metadata of three types, a missing value."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

# title | text, and below it the two queries that ask for it
_TOPICS = """
Bicycle repair | Patch an inner tube, true a wheel and adjust the brakes.
    fix a flat tyre | make bike brakes stop squealing
Sourdough bread | Feed the starter, knead flour and water, let the dough rise overnight.
    bake a loaf without yeast | ferment dough
Volcanoes | Magma rises through vents in the crust and erupts as lava and ash.
    why does a mountain spew molten rock | lava
Honey bees | Workers collect nectar and pollinate flowers; the queen lays every egg.
    insects that make honey | life in a hive
Chess openings | The Sicilian, the French and the Caro-Kann answer the king's pawn.
    first moves of a board game | reply to e4
Solar panels | Photovoltaic cells turn sunlight into electric current on the roof.
    electricity from the sun | power my house by light
Whale songs | Humpbacks sing for hours under water, and the song changes every season.
    how sea mammals call | music of the ocean
Tax returns | Declare income and deductions to the revenue office before the deadline.
    what I owe the government | file my taxes
Knitting | Cast on, knit and purl rows of wool with two needles until the scarf is long.
    make a sweater by hand | yarn and needles
Vaccines | A harmless piece of a virus teaches the immune system to recognise it.
    protect people from disease | how a jab works
Photography | Aperture, shutter speed and sensitivity decide the exposure of a picture.
    take sharper photos | camera settings
Coffee roasting | Green beans turn brown at two hundred degrees and crack twice.
    prepare beans for espresso | dark or light roast
Roman aqueducts | Stone channels carried water over arches into the ancient city.
    how old cities got water | Latin engineering
Black holes | Gravity is so strong that light cannot leave the collapsed star.
    what swallows light in space | event horizon
Gardening tomatoes | Plant seedlings after the frost, stake them and water the roots.
    grow vegetables at home | red fruit on a vine
Ballet | Dancers train at the barre, in five positions, on the tips of their toes.
    classical dance on stage | pirouette and plie
Earthquakes | Plates slip along a fault and seismic waves shake the ground.
    why buildings tremble | measure a tremor
Cheese making | Rennet curdles milk; the curds are pressed, salted and aged in a cellar.
    turn milk into gouda | curds and whey
Sailing | Trim the sheets, tack against the wind and reef the mainsail in a storm.
    steer a yacht upwind | handle a boat under canvas
Glaciers | Snow packs into ice that flows slowly downhill and carves valleys.
    rivers of ice | what shaped the fjords
Violin making | A luthier carves spruce and maple and varnishes the body of the fiddle.
    build a string instrument | Stradivari's craft
Marathon training | Run long on Sundays, add intervals, taper before the race day.
    prepare for 42 kilometres | running plan
Penguins | Flightless birds that huddle on the Antarctic ice and dive for krill.
    birds that swim and cannot fly | animals of the south pole
Contract law | An offer, its acceptance and consideration bind two parties.
    when is an agreement valid | sue over a broken promise
Pottery | Clay is thrown on a wheel, glazed and fired in a kiln.
    shape a vase from mud | ceramics oven
Tea ceremony | Matcha is whisked with hot water and served in silence to guests.
    Japanese way of serving a green drink | powdered leaves
Submarines | Ballast tanks fill with water and the vessel dives below the surface.
    ships that go under | navy beneath the waves
Migraine | Throbbing pain on one side of the head, with nausea and dread of light.
    bad headache for hours | aura and nausea
Mushroom foraging | Chanterelles are edible, death caps kill: look at gills and ring.
    pick fungi in the forest | is this toadstool safe
Origami | A square sheet of paper becomes a crane by valley and mountain folds.
    fold paper animals | make a bird without scissors
Mortgages | A bank lends for the house and takes interest for thirty years.
    borrow to buy a home | monthly payments on a loan
Fencing | Foil, epee and sabre bouts are won by touching the opponent first.
    sport with swords | lunge and parry
Rainbows | Sunlight refracts in raindrops and splits into seven colours.
    coloured arc after a shower | why red is on the outside
Railways | Steam, diesel and electric engines pull wagons along two steel rails.
    how trains move | locomotives and track
Dinosaurs | Giant reptiles of the Jurassic died out when an asteroid struck.
    extinct giant lizards | fossils of a tyrannosaur
Perfume | Top, heart and base notes of flowers and musk evaporate in turn.
    blend a fragrance | what makes a scent last
Falconry | A trained hawk returns to the gloved fist for a piece of meat.
    hunt with birds of prey | teach a hawk to come back
Elevators | A counterweight and a cable lift the cabin between the floors.
    machine instead of stairs | how a lift is kept from falling
Soap | Fat and lye saponify into bars that wash off grease.
    make something to clean hands | chemistry of washing
Astronaut food | Meals are freeze-dried and packed so that crumbs do not float in orbit.
    what crews eat in space | dinner in zero gravity
"""
_FIRST_ROW = {"train": 0, "dev": 28, "test": 34}
_SPLITS = ("train", "dev", "test")

BeirFolder = Callable[..., Path]


def _topics() -> list[list[str]]:
    lines = _TOPICS.strip().splitlines()
    return [
        [part.strip() for part in f"{document}|{queries}".split("|")]
        for document, queries in zip(lines[::2], lines[1::2], strict=True)
    ]


def _split(row: int) -> str:
    return max((start, name) for name, start in _FIRST_ROW.items() if row >= start)[1]


def _write(path: Path, lines: Sequence[str], compress: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    if compress:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def _document(row: int, title: str, text: str) -> str:
    metadata = {"words": len(text.split()), "first_letter": title[0], "long": len(text) > 65}
    if row == 3:
        del metadata["words"]
    return json.dumps({"_id": f"d{row}", "title": title, "text": text, "metadata": metadata})


def _make(folder: Path, splits: Sequence[str], compress: bool) -> Path:
    topics = _topics()
    _write(folder / "corpus.jsonl", [_document(row, *topic[:2]) for row, topic in enumerate(topics)], compress)
    asked = [(f"q{row}-{n}", row, query) for row, topic in enumerate(topics) for n, query in enumerate(topic[2:])]
    asked = [entry for entry in asked if _split(entry[1]) in splits]
    _write(folder / "queries.jsonl", [json.dumps({"_id": key, "text": query}) for key, _, query in asked], compress)
    for split in splits:
        lines = [f"{key}\td{row}\t1" for key, row, _ in asked if _split(row) == split]
        _write(folder / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *lines], compress)
    return folder


@pytest.fixture
def beir_folder(tmp_path: Path) -> BeirFolder:
    """A factory: ``beir_folder(splits=("train", "dev", "test"), compress=False) -> Path``.

    40 documents ``d0``..``d39`` about distinct topics, two queries each (``q7-0``, ``q7-1`` ask for ``d7``):
    documents 0-27 in train, 28-33 in dev, 34-39 in test. Metadata: words (integer, missing in d3), first_letter, long.
    """

    def make(splits: Sequence[str] = _SPLITS, compress: bool = False) -> Path:
        return _make(tmp_path / "beir", splits, compress)

    return make


@pytest.fixture(scope="module")
def traced_once() -> Iterator[None]:
    """Each tower's graph: a trace takes seconds."""
    from tiny_work import traced  # with torch, which most tests here need not wait for

    from offline import export, systems

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", traced)
        patch.setattr(systems, "to_onnx", traced)
        yield
