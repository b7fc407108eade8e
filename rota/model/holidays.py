"""A country's public holidays, from the optional package ``holidays``.

Asked once, when a calendar is made; what it answers is kept as data. Called by ``calendars``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from rota.errors import Invalid, NotSupported

_TITLE_LENGTH_MAX = 200


def find_holidays(country: object, subdivision: object, years: Iterable[int]) -> dict[str, str]:
    """Return the names of the holidays in ``years``, by date as ISO text, oldest first.

    Raises:
        Invalid: there is no such country or subdivision.
        NotSupported: the package is not installed.
    """
    try:
        import holidays
    except ImportError:
        raise NotSupported("a country's holidays come from a package: pip install 'rota[holidays]'") from None
    known = holidays.list_supported_countries(include_aliases=False)
    if not isinstance(country, str) or country not in known:
        near = get_close_matches(str(country).upper(), sorted(known), n=1, cutoff=0.5)
        rule = "a country is its ISO code of two capitals, such as NL" + (f"; did you mean {near[0]}?" if near else "")
        raise Invalid("country", country, rule)
    if subdivision is not None and subdivision not in known[country]:
        parts = ", ".join(known[country][:60])
        rule = f"the subdivisions of {country} are {parts}" if parts else f"{country} has no subdivisions here"
        raise Invalid("subdivision", subdivision, rule)
    part = subdivision if isinstance(subdivision, str) else None
    found = holidays.country_holidays(country, subdiv=part, years=years, language="en_US")
    return {day.isoformat(): title[:_TITLE_LENGTH_MAX] for day, title in sorted(found.items())}
