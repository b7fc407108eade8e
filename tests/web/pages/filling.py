"""Forms of definitions, filled in as a browser does."""

from __future__ import annotations


def filled_in(browser, action, name=None, **options):
    """Return what stands in the fields of a form, as a browser sends it, with other options."""
    form = next(one for one in browser.page.find("form") if one.attributes["action"] == action)
    fields = {}
    for one in form.find("input"):
        if "name" in one.attributes:
            fields[one.attributes["name"]] = one.attributes.get("value", "").replace("\n", "\r\n")
    for one in form.find("textarea"):
        fields[one.attributes["name"]] = one.text.removeprefix("\n").replace("\n", "\r\n")
    for one in form.find("select"):
        choices = one.find("option")
        chosen = next((option for option in choices if "selected" in option.attributes), choices[0])
        fields[one.attributes["name"]] = chosen.attributes["value"]
    fields |= {f"option.{key}": value for key, value in options.items()}
    return fields if name is None else fields | {"name": name}


def send_all(browser, action, name=None, **options):
    """Send a form with all that stands in its fields, and other options."""
    browser.send(action, **filled_in(browser, action, name, **options))
