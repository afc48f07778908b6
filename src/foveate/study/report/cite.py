"""How to cite what was compared: BibTeX made from the line that each mechanism's record keeps.

A record names the first author, the title, the venue and an identifier, so that is what an entry
says: further authors stand as ``and others``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from foveate.registry import describe, list_attention
from foveate.study.report.markup import Markup, element, section
from foveate.study.results import Results

_NO_VENUE = re.compile(r"\d{4}$")


class Publication(NamedTuple):
    """One publication, as far as it is known.

    Attributes:
        author: the first, by family name; empty where the line begins with a title.
        title: of the publication.
        venue: with its year, such as ``"CVPR 2023"``; empty where there is none.
        year: of the venue, else of the preprint; empty where neither is known.
        arxiv: identifier of the preprint; empty where there is none.
        doi: likewise.
    """

    author: str
    title: str
    venue: str
    year: str
    arxiv: str
    doi: str


def publications(paper: str) -> list[Publication]:
    """The publications in the ``paper`` field of a mechanism's record; several are parted by ``;``.

    A later one without an author of its own has the first one's.
    """
    found: list[Publication] = []
    for text in filter(None, (part.strip() for part in paper.split(";"))):
        made = _publication(text)
        if not made.author and found:
            made = made._replace(author=found[0].author)
        found.append(made)
    return found


def _publication(text: str) -> Publication:
    text, arxiv = _taken(text, r",?\s*arXiv:([\w./-]+)")
    text, doi = _taken(text, r",?\s*doi[ :]\s*(\S+)")
    text, author = _taken(text, r"^([^,]+?)(?: et al\.| and others),\s*")
    text, venue = _taken(text, r",\s*([^,]*\b(?:19|20)\d{2})$")
    year = venue[-4:] if venue else (f"20{arxiv[:2]}" if re.match(r"\d{4}\.", arxiv) else "")
    return Publication(author, text.strip(), "" if _NO_VENUE.match(venue) else venue, year, arxiv,
                       doi)  # fmt: skip


def _taken(text: str, pattern: str) -> tuple[str, str]:
    """The text without what the pattern finds, and what its group holds."""
    found = re.search(pattern, text)
    return (text[: found.start()] + text[found.end() :], found[1]) if found else (text, "")


def bibtex(publication: Publication, key: str) -> str:
    """An entry, with the fields that are known."""
    fields = {
        "title": f"{{{publication.title}}}",
        "author": publication.author and f"{publication.author} and others",
        "booktitle": publication.venue.rpartition(" ")[0],
        "year": publication.year,
        "eprint": publication.arxiv,
        "archiveprefix": publication.arxiv and "arXiv",
        "doi": publication.doi,
    }
    kind = "inproceedings" if publication.venue else "misc"
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def key_of(publication: Publication) -> str:
    """``pan2023slide``: author, year, first word of the title that says something."""
    words = [w for w in re.findall(r"[a-z]+", publication.title.lower()) if len(w) > 2]
    first = next((word for word in words if word not in ("the", "with", "for", "and")), "paper")
    author = re.sub(r"[^a-z]", "", publication.author.lower())
    return f"{author}{publication.year}{first}"


def citations(results: Results) -> Markup | None:
    """The section with an entry for each publication of what was compared."""
    uses: dict[Publication, list[str]] = {}
    unknown = []
    for row in results.rows:
        if row.control:
            continue
        found = _of_mechanism(row.subject.mechanism)
        for publication in found:
            uses.setdefault(publication, []).append(row.label)
        if not found:
            unknown.append(row.label)
    if not uses and not unknown:
        return None
    entries = [
        f"% {', '.join(dict.fromkeys(labels))}\n{bibtex(publication, key_of(publication))}"
        for publication, labels in uses.items()
    ]
    missing = f" No publication is recorded of {', '.join(unknown)}." if unknown else ""
    return section(
        "How to cite",
        "cite",
        entries and element(
            "details",
            element("summary", f"BibTeX of {len(entries)} publication{'s'[: len(entries) != 1]}"),
            element("pre", element("code", "\n\n".join(entries))),
        ),
        note="Made from the line that the library keeps of each publication: the first author, the "
        "title, the venue and the identifier. Further authors stand as “and others”, and pages are "
        f"missing; the identifier leads to the rest.{missing}",
    )  # fmt: skip


def _of_mechanism(name: str) -> list[Publication]:
    """What is known of a mechanism here; one of the user's own may be registered elsewhere."""
    return publications(describe(name).paper) if name in list_attention() else []
