"""XMP (ISO 16684): properties of a picture as RDF in XML."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_DEPTH = 6  # a history of structures has three


def properties(xmp: bytes) -> dict[str, Any]:
    """Return the properties by plain names: text, lists of it, or structures of it.

    Of two properties that differ by their namespace alone the first counts, of a text in several languages the
    default. Raises nothing: XMP that is broken, defines entities or is nested beyond reason says nothing.
    """
    try:
        root = ElementTree.fromstring(xmp, forbid_dtd=True)
    except (ParseError, ValueError, LookupError):
        return {}
    found: dict[str, Any] = {}
    for description in root.findall(f".//{_RDF}RDF/{_RDF}Description"):
        for name, value in _structure(description, 0).items():
            found.setdefault(name, value)
    return found


def plain_name(name: str) -> str:
    """Return a name such as `CreatorTool` or `GPSImgDirection` in snake case, without its namespace."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.rpartition("}")[2])
    return name.replace("-", "_").lower()


def _structure(element: Element, depth: int) -> dict[str, Any]:
    told = [(name, value.strip()) for name, value in element.attrib.items() if _is_property(name)]
    told += [(child.tag, _value(child, depth + 1)) for child in element]
    found: dict[str, Any] = {}
    for name, value in told:
        if value not in (None, "", [], {}):
            found.setdefault(plain_name(name), value)
    return found


def _is_property(name: str) -> bool:
    return not name.startswith(_RDF) and name != _LANGUAGE


def _value(element: Element, depth: int) -> Any:
    if depth > _DEPTH:
        return None
    kind = element[0].tag if len(element) else None
    if kind == _RDF + "Alt":
        choices = sorted(element[0], key=lambda item: item.get(_LANGUAGE) != "x-default")
        return _value(choices[0], depth + 1) if choices else None
    if kind in (_RDF + "Bag", _RDF + "Seq"):
        items = [_value(item, depth + 1) for item in element[0]]
        return [item for item in items if item not in (None, "", [], {})]
    if kind == _RDF + "Description":
        return _structure(element[0], depth + 1)
    if kind is not None or any(map(_is_property, element.attrib)):
        return _structure(element, depth + 1)
    resource: str | None = element.get(_RDF + "resource")
    return resource or (element.text or "").strip()
