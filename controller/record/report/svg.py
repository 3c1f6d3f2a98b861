"""A little SVG, built as a tree so that every text and attribute is escaped by construction."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from markupsafe import Markup

Number = float | int | str


def drawing(width: float, height: float, label: str, *, css: str = "") -> ET.Element:
    """An ``<svg>`` with a view box in user units, and `label` as its text twin."""
    root = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {width:g} {height:g}",
            "role": "img",
            "aria-label": label,
            "class": css,
            "preserveAspectRatio": "xMidYMid meet",
        },
    )
    if label:
        ET.SubElement(root, "title").text = label
    return root


def add(parent: ET.Element, tag: str, /, text: str = "", **attributes: Number) -> ET.Element:
    """Append an element; ``_`` in attribute names becomes ``-``, a trailing one goes."""
    written = {
        name.rstrip("_").replace("_", "-"): f"{value:.6g}"
        if isinstance(value, float)
        else str(value)
        for name, value in attributes.items()
    }
    element = ET.SubElement(parent, tag, written)
    if text:
        element.text = text
    return element


def tip(element: ET.Element, text: str) -> None:
    """Say `text` when the pointer rests on `element`."""
    ET.SubElement(element, "title").text = text


def markup(root: ET.Element) -> Markup:
    """The tree as markup that a template may insert."""
    return Markup(ET.tostring(root, encoding="unicode"))
