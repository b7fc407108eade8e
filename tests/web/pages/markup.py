"""A page as tests look at it: parsed strictly, so that what is not well-formed fails, and a browser without script."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

VOID = frozenset({"meta", "link", "input", "br", "hr", "img", "col", "wbr"})
KNOWN = frozenset(
    "html head meta title link script body a header nav ul ol li div span b i p main footer h1 h2 h3 table caption "
    "thead tbody tfoot tr th td form input button label fieldset legend select option datalist textarea time dl dt dd "
    "pre code details summary progress section article aside strong em small br output kbd abbr svg g rect text line "
    "path circle polyline wbr".split()
)
ADDRESSES = frozenset({"href", "src", "action", "formaction", "poster", "data", "xlink:href", "srcset"})
CONTROLS = frozenset({"input", "select", "textarea"})


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    children: list[Element | str] = field(default_factory=list)

    def walk(self):
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def find(self, tag: str, **attributes: str) -> list[Element]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            one
            for one in self.walk()
            if one.tag == tag
            and all(
                value in one.attributes.get(name, "").split() if name == "class" else one.attributes.get(name) == value
                for name, value in wanted.items()
            )
        ]

    def within(self, tag: str) -> bool:
        above = self.parent
        while above is not None:
            if above.tag == tag:
                return True
            above = above.parent
        return False


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {}, None)
        self.at = self.root

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice: {names}"
        one = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(one)
        if tag not in VOID:
            self.at = one

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"</{tag}> ends <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def parse(text: str) -> Element:
    """Parse a page; what is opened and not closed, or closed and not opened, is an error."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.at is parser.root, f"<{parser.at.tag}> is not closed"
    return parser.root


def check_page(text: str) -> Element:
    """Check what holds of every page: no program but ours, nothing from elsewhere, each control has a label."""
    page = parse(text)
    identities = [one.attributes["id"] for one in page.walk() if "id" in one.attributes]
    assert len(set(identities)) == len(identities), f"an id comes twice: {sorted(identities)}"
    for one in page.walk():
        if one is page:
            continue
        assert one.tag in KNOWN, f"<{one.tag}> is no element of ours"
        for name, value in one.attributes.items():
            assert not name.startswith("on"), f"<{one.tag} {name}=...>"
            assert name not in {"style", "srcdoc"}, f"<{one.tag} {name}=...>"
            if name in ADDRESSES:
                assert value == "" or value[0] in "#?" or (value[0] == "/" and value[1:2] not in {"/", "\\"}), value
        if one.tag == "script":
            assert one.attributes["src"].startswith("/static/")
            assert not one.text.strip()
        if one.tag in CONTROLS and one.attributes.get("type") != "hidden":
            has_label = one.within("label") or "aria-label" in one.attributes
            named = one.attributes.get("id")
            has_label = has_label or (named is not None and bool(page.find("label", for_=named)))
            assert has_label, f"<{one.tag} name={one.attributes.get('name')}> has no label"
        if one.tag == "button":
            assert one.text.strip()
            assert one.attributes.get("type") == "button" or one.within("form") or "form" in one.attributes
        if one.tag == "form" and one.attributes.get("method") == "post":
            assert one.find("input", name="csrf"), f"the form of {one.attributes['action']} has no token"
    (html,) = page.find("html")
    assert html.attributes["lang"] == "en"
    assert len(page.find("h1")) == 1
    assert len(page.find("main")) == 1
    return page


class Browser:
    """A browser without script."""

    def __init__(self, http: Any) -> None:
        self.http = http
        self.answer: Any = None
        self.page: Element = Element("", {}, None)

    def open(self, address: str, status: int = 200) -> Element:
        return self._show(self.http.get(address, headers={"accept": "text/html"}, follow_redirects=True), status)

    def send(self, action: str, status: int = 200, *, choose: str | None = None, **fields: Any) -> Element:
        """Send the first form of this page that goes to ``action``, by its button ``choose``, with other fields."""
        (form, *_) = [
            one
            for one in self.page.find("form")
            if one.attributes["action"] == action
            and (choose is None or any(b.text.strip() == choose for b in one.find("button")))
        ]
        given: list[tuple[str, str]] = [
            (one.attributes["name"], one.attributes.get("value", ""))
            for one in form.find("input")
            if "name" in one.attributes
            and one.attributes["name"] not in fields
            and (one.attributes.get("type") != "checkbox" or "checked" in one.attributes)
        ]
        given += [
            (one.attributes["name"], one.attributes["value"])
            for one in form.find("button")
            if choose is not None and one.text.strip() == choose and "name" in one.attributes
        ]
        for name, value in fields.items():
            given += [(name, str(one)) for one in (value if isinstance(value, list) else [value])]
        method = form.attributes.get("method", "get")
        if method == "get":
            return self.open(f"{action}?{urlencode(given)}", status)
        answer = self.http.post(
            action,
            content=urlencode(given),
            headers={
                "content-type": "application/x-www-form-urlencoded",
                "origin": "http://localhost:8300",
                "accept": "text/html",
            },
            follow_redirects=True,
        )
        return self._show(answer, status)

    @property
    def notice(self) -> str:
        return "".join(one.text for one in self.page.find("p", class_="notice"))

    def _show(self, answer: Any, status: int) -> Element:
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        self.answer = answer
        self.page = check_page(answer.text)
        return self.page
