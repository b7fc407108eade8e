"""Whether what may not happen in a browser would be seen: each of it is done here by hand."""

from __future__ import annotations

from rota.model.access import THIS_MACHINE
from tests.browser.conftest import serving
from tests.browser.watch import Watch, look_at

LOOKS_MAX = 1000
WRONG = {
    "an inline script": (
        "const s = document.createElement('script'); s.textContent = 'owned = 1'; document.body.append(s)",
        ["content security policy was violated: script-src", "an element <script>"],
    ),
    "an attribute": (
        "document.body.setAttribute('onclick', 'owned = 1')",
        ["content security policy was violated: script-src-attr", "an attribute onclick"],
    ),
    "a style": (
        "const s = document.createElement('div'); s.setAttribute('style', 'top: 0'); document.body.append(s)",
        ["content security policy was violated: style-src-attr", "an attribute style"],
    ),
    "an image from elsewhere": (
        "const i = document.createElement('img'); i.src = 'http://evil.invalid/x'; document.body.append(i)",
        ["content security policy was violated: img-src", "an element <img"],
    ),
    "an address of another scheme": ("document.links[0].href = 'javascript:owned'", ["a link to javascript:owned"]),
    "a link to elsewhere": ("document.links[0].href = '//evil.invalid/x'", ["a link to http://evil.invalid/x"]),
    "a payload": ("window.owned = 1", ["a payload has run"]),
    "a template": ("document.body.append('x49x')", ["a template within text was worked out"]),
    "an error": ("setTimeout(() => { throw new Error('oh') })", ["an error oh"]),
    "the console": ("console.error('oh')", ["the console says oh"]),
    "a dialog": ("alert('oh')", ["a dialog oh"]),
    "a page from elsewhere": ("window.open('http://evil.invalid/x')", ["http://evil.invalid/x was asked for"]),
    "what is not there": ("fetch('/nowhere').then(() => 0)", ["the console says Failed to load resource"]),
}


def test_what_may_not_happen_is_seen(chromium, database_url):
    unseen: dict[str, list[str]] = {}
    with serving(database_url, THIS_MACHINE) as origin:
        for what, (do, said) in WRONG.items():
            context = chromium.new_context(base_url=origin)
            watch = Watch(context, origin, ())
            page = context.new_page()
            page.goto("/jobs")
            assert watch.wrong + look_at(page) == []

            page.evaluate(f"() => {{ {do} }}")

            # What a browser tells comes after what it does: each look lets some of it come.
            missing = said
            for _ in range(LOOKS_MAX):
                found = watch.wrong + look_at(page)
                missing = [text for text in said if not any(text in one for one in found)]
                if not missing:
                    break
            unseen |= {what: missing} if missing else {}
            context.close()

    assert unseen == {}
