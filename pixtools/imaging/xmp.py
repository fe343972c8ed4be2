"""Reads XMP (ISO 16684), which stores the properties of a picture as RDF in XML."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_MAX_DEPTH = 6  # of nested values; for example, the structures of an editing history have three levels
_EMPTY: tuple[Any, ...] = (None, "", [], {})


def properties(xmp: bytes) -> dict[str, Any]:
    """Return the properties. The keys are plain names. A value is a text, a list, or a dictionary of properties.

    If two properties differ only in their namespaces, the first property is returned. If a text has several languages,
    the text in the default language is returned. Raises nothing. The result is empty if the XML is damaged or has a
    document type. Values that are nested too deeply are left out.
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
    """Return the properties in the attributes and children of an element, without empty properties."""
    members = [(name, value.strip()) for name, value in element.attrib.items() if _is_property(name)]
    members += [(child.tag, _value(child, depth + 1)) for child in element]
    structure: dict[str, Any] = {}
    for name, value in members:
        if value not in _EMPTY:
            structure.setdefault(plain_name(name), value)
    return structure


def _is_property(attribute: str) -> bool:
    return not attribute.startswith(_RDF) and attribute != _LANGUAGE


def _value(element: Element, depth: int) -> Any:
    """Return the value of a property, or None if `depth` exceeds the limit. The first child decides the type."""
    if depth > _MAX_DEPTH:
        return None
    if len(element) == 0:
        return _structure(element, depth + 1) if any(map(_is_property, element.attrib)) else _simple_value(element)
    child = element[0]
    if child.tag == _RDF + "Alt":
        return _default(child, depth)
    if child.tag in (_RDF + "Bag", _RDF + "Seq"):
        return [value for item in child if (value := _value(item, depth + 1)) not in _EMPTY]
    return _structure(child if child.tag == _RDF + "Description" else element, depth + 1)


def _simple_value(element: Element) -> str:
    """Return the text of an element, or the URI that it refers to."""
    resource: str | None = element.get(_RDF + "resource")
    return resource or (element.text or "").strip()


def _default(alternatives: Element, depth: int) -> Any:
    """Return the value in the default language, or the first value."""
    items = sorted(alternatives, key=lambda item: item.get(_LANGUAGE) != "x-default")
    return _value(items[0], depth + 1) if items else None
