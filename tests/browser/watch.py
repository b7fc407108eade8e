"""What may not happen in a browser, whatever is shown: it is written down, and fails the test that it happens in."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request

# What a payload that has run would have set, and what our pages never hold: a program within the page, an attribute
# that is one, what loads something from elsewhere, and an address that is no page.
LOOK = """() => {
  const wrong = [];
  if ("owned" in window) wrong.push("a payload has run");
  const held = "img, iframe, object, embed, style, base, template, audio, video, math, foreignObject, "
    + "script:not([src])";
  for (const one of document.querySelectorAll(held)) wrong.push(`an element ${one.outerHTML.slice(0, 200)}`);
  for (const one of document.querySelectorAll("*")) {
    for (const { name, value } of one.attributes) {
      if (name.startsWith("on") || name === "style") wrong.push(`an attribute ${name}=${value.slice(0, 200)}`);
      if (["href", "src", "action", "formaction", "xlink:href"].includes(name)) {
        const address = new URL(value, location.href);
        if (address.origin !== location.origin) wrong.push(`a link to ${address.href.slice(0, 200)}`);
      }
    }
  }
  const said = document.documentElement.textContent;
  if (/[xX]49[xX]/.test(said)) wrong.push("a template within text was worked out");
  return wrong;
}"""
TELL_VIOLATIONS = """document.addEventListener("securitypolicyviolation", (event) => tellViolation(
  `${event.effectiveDirective} of ${event.blockedURI} ${event.sample}`
));"""
_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


def look_at(page: Page) -> list[str]:
    """Return what is wrong in a page as it stands now."""
    return page.evaluate(LOOK)


class Watch:
    """Watches all pages of one visitor. ``wrong`` says what went wrong, with the page that it went wrong on."""

    def __init__(self, context: BrowserContext, origin: str, refused: tuple[int, ...]) -> None:
        """Watch; the server may answer with the statuses in ``refused``."""
        self.wrong: list[str] = []
        self._context = context
        self._origin = origin
        self._refused = refused
        context.expose_binding("tellViolation", self._note_violation)
        context.add_init_script(TELL_VIOLATIONS)
        context.on("console", self._note_console)
        context.on("dialog", self._note_dialog)
        context.on("request", self._note_request)
        context.on("weberror", lambda error: self._note(error.page, f"an error {error.error}"))

    def look_at_pages(self) -> None:
        """Look at the pages as they stand now, and write down what may not be in them."""
        for page in self._context.pages:
            for wrong in look_at(page):
                self._note(page, wrong)

    def _note(self, page: Page | None, text: str) -> None:
        self.wrong.append(f"{page.url if page is not None else 'no page'}: {text}")

    def _note_violation(self, source: dict[str, Any], said: str) -> None:
        self._note(source["page"], f"the content security policy was violated: {said}")

    def _note_console(self, message: ConsoleMessage) -> None:
        found = _REFUSED.match(message.text)
        if found is not None and int(found[1]) in self._refused:
            return
        if message.type in {"error", "warning", "assert"}:
            self._note(message.page, f"the console says {message.text} {message.location}")

    def _note_dialog(self, dialog: Dialog) -> None:
        self._note(dialog.page, f"a dialog {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self._origin}/", "data:")):
            self._note(None, f"{request.url} was asked for")
