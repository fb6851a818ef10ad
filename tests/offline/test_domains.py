"""Data sets of other domains: what a page is read from, and that no family is in two splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.domains import Page, manual, packages, terms, write

_STANZA = """Package: libfoo-dev
Description-md5: d943
Description-en: fast frobnication - development files
 Foo frobnicates at speed.
 .
 These are its headers."""

_ROFF = r""".\" made by hand
.TH FOO 1
.SH NAME
foo \- frobnicate
files quickly
.SH SYNOPSIS
.B foo
[\fIfile\fR]
.SH DESCRIPTION
Reads what there \(em or is \- not."""

_LONG = " ".join(["word"] * 20)


def test_a_package_asks_by_its_synopsis() -> None:
    (page,) = packages([_STANZA, "Package: without-a-description"])
    assert page.queries == ("fast frobnication - development files",)
    assert page.text == "Foo frobnicates at speed.\n\nThese are its headers."
    assert page.family == "foo"


def test_a_manual_asks_by_its_name_line_and_loses_it() -> None:
    page = manual("foo.1", _ROFF)
    assert page is not None
    assert (page.title, page.queries) == ("foo", ("frobnicate files quickly",))
    assert page.text == "SYNOPSIS\nfoo\n[file]\nDESCRIPTION\nReads what there - or is - not."


def test_a_manual_without_a_name_line_is_none() -> None:
    assert manual("foo.1", ".TH FOO 1\n.SH DESCRIPTION\nNothing.") is None


def test_releases_of_a_command_are_of_one_family() -> None:
    families = {page.family for stem in ("gcloud_alpha_sql_x", "gcloud_sql_y") if (page := manual(f"{stem}.1", _ROFF))}
    assert families == {"gcloud_sql"}


def test_whole_families_go_to_one_split_and_nothing_asks_for_itself(tmp_path: Path) -> None:
    pages = [Page(f"p{i}", f"title {i}", f"{_LONG} {i}", (f"query of {i}",), f"family {i // 3}") for i in range(60)]
    literal = Page("literal", "title", f"{_LONG} asked literally", ("asked literally",), "other")
    twin = Page("twin", "title", f"{_LONG} twin", ("query of 0",), "family 0")
    counts = write([*pages, literal, twin, replace(twin, text=f"{_LONG} again")], tmp_path, documents=100, dev=10, test=20)
    assert counts["documents"] == 62
    families = {page.id: page.family for page in [*pages, twin]}
    found = [
        {line.split("\t")[1] for line in (tmp_path / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]}
        for split in ("train", "dev", "test")
    ]
    assert set.union(*found) == set(families), "twins are both relevant, and the literal one has no query"
    splits = [{families[name] for name in names} for names in found]
    assert sum(map(len, splits)) == len(set.union(*splits)), "no family is in two"
    assert len(json.loads((tmp_path / "corpus.jsonl").read_text().splitlines()[0])) == 3


def test_a_term_is_asked_for_by_its_synonyms() -> None:
    stanza = """[Term]
id: HP:1
name: Renal cyst
def: "A \\"closed\\" sac in a kidney." [orcid:1]
comment: Seen by ultrasound.
synonym: "renal cyst" EXACT []
synonym: "Kidney cyst" EXACT layperson []
synonym: "Cystic kidney" RELATED []
is_a: HP:0 ! Abnormality"""
    (page,) = terms([stanza, stanza + "\nis_obsolete: true", "[Term]\nid: HP:2\nname: without a definition"])
    assert page == Page(
        "HP:1", "Renal cyst", 'A "closed" sac in a kidney. Seen by ultrasound.', ("Kidney cyst", "Cystic kidney"), "HP:0"
    )
