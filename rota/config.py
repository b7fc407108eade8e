"""The settings: defaults, then a TOML file, then ``ROTA_*`` variables, then flags.

Invariant: *not set* and *set to the default* stay different until the layers are merged, and each value knows where it
came from. A key that is not known is an error that suggests the nearest; nothing is half read. Called by the command
line, again by a worker that is told to read its configuration anew. Long, since each setting stands here once, with how
it is read and shown.

    database = "postgresql://rota@db/rota"
    zone = "Europe/Amsterdam"     # of new schedules that name none
    retry_delay = "30s"           # of new jobs that name none
    alert_default = ["ops"]       # likewise: who is told of them
    pools = ["default", "reports"]
    lease = "60s"
    labels = { gpu = "yes" }      # of this node, for the rules of pools and for jobs that name nodes by them

    [connections.warehouse]
    url = "postgresql://..."

    [environments.shop]           # for jobs with --env shop or --env shop==1.2
    version = "1.2"
    interpreter = "/srv/shop/venv/bin/python"

    [keep_runs]                   # how long finished runs are kept, of jobs that do not say so
    failed = "90d"

    [secrets]                     # for jobs with --secret DB_PASSWORD: where it is, never the secret itself
    DB_PASSWORD = { file = "/run/secrets/db" }

    [alerts.ops]                  # for jobs with --alert ops
    webhook = "https://hooks.example.com/rota"
    secret = { file = "/run/secrets/ops" }

    [alerts.mail]
    email = ["ops@example.com"]

    [smtp]                        # what takes the mail
    host = "mail.example.com"
    from = "rota@example.com"

    [oidc]                        # who may say who somebody is that logs in to the web
    issuer = "https://login.example.com"
    client_id = "rota"
    client_secret = { file = "/run/secrets/oidc" }
    public_url = "https://rota.example.com"
    roles = { admin = ["ops"], viewer = ["staff"] }
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rota.alerts.channel import Channel, read_channel
from rota.errors import ConfigError, Invalid
from rota.model.access import Network, read_header, read_names, read_networks
from rota.model.alerts import CHANNELS_MAX, check_alert
from rota.model.durations import format_duration, parse_duration
from rota.model.environment import Environment
from rota.model.instants import check_zone
from rota.model.job import LEASE_SECONDS, LEASE_SECONDS_MIN, OWN_CONNECTION
from rota.model.keeping import KEEP_DEFAULT, check_keep_setting, format_keep
from rota.model.names import check_name
from rota.model.oidc import Provider, read_provider
from rota.model.placement import NO_LABELS, check_labels
from rota.model.secret import SECRETS_MAX, SecretSource
from rota.model.states import OnTerm
from rota.model.values import check_word

CONFIG_VARIABLE = "ROTA_CONFIG"
DATABASE_FILE_VARIABLE = "ROTA_DB_FILE"
SLOTS_MAX = 10_000
LIKENESS_MIN = 0.85  # of two spellings: ROTA_STATEDIR is one of ROTA_STATE_DIR, ROTA_URL none of ROTA_DB
_TRUTHS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
ENVIRONMENT_KEYS = ("version", "interpreter", "python_path", "variables")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: how it is called, read, and what it is when nobody says."""

    key: str
    variable: str
    default: object
    read: Callable[[str, object], object]
    show: Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value, and which layer gave it."""

    value: Any = field(repr=False)
    origin: str
    text: str  # as it may be shown: passwords are masked


@dataclass(frozen=True, slots=True)
class Connection:
    """A named connection of the file."""

    name: str
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """The merged settings. None: a value that is better chosen by whoever uses it, such as by the kind of database."""

    database: str | None = field(repr=False)
    zone: str
    poll_seconds: float | None
    lease_seconds: float
    retry_delay_seconds: float
    alert_default: tuple[str, ...]  # channels, of new jobs that name none
    state_dir: Path | None  # of workers: sockets and journals of this machine
    log_file: Path | None
    slots: int | None
    pools: tuple[str, ...]
    labels: Mapping[str, str]
    drain_timeout_seconds: float
    on_term: OnTerm
    cgroup: str  # auto, off, or the absolute path of a directory
    keep_output_seconds: float | None
    keep_audit_seconds: float | None
    web_names: tuple[str, ...]
    behind_tls: bool | None  # None: chosen by the address
    trust_proxy: str | None
    proxy_from: tuple[Network, ...]
    open_metrics: bool
    keep_runs: Mapping[str, float | None]  # seconds, by how a run ended; None: for ever
    connections: Mapping[str, Connection]
    environments: tuple[Environment, ...]  # of this node; more may be registered by what is installed on it
    secrets: tuple[SecretSource, ...]  # where this node has those of jobs
    alerts: tuple[Channel, ...]  # where this node can send alerts
    oidc: Provider | None  # who may say who somebody is that logs in
    resolved: Mapping[str, Resolved]


def _duration(minimum: float, *, zero_ok: bool = False) -> Callable[[str, object], object]:
    def read(field: str, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Invalid(field, value, "write a duration, for example 90s or 15m")
        return parse_duration(field, value, minimum=minimum, zero_ok=zero_ok)

    return read


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Invalid(field, value, "write a text that is not empty")
    return value.strip()


def _zone(field: str, value: object) -> str:
    return check_zone(field, _text(field, value)).key


def _path(field: str, value: object) -> Path:
    # Absolute at once: a log file is opened again later, when the working directory may be another.
    return Path(_text(field, value)).expanduser().absolute()


def _on_term(field: str, value: object) -> OnTerm:
    return check_word(field, value, OnTerm)


def _cgroup(field: str, value: object) -> str:
    text = _text(field, value)
    if text not in ("auto", "off") and not text.startswith("/"):
        raise Invalid(field, value, "write auto, off, or the absolute path of a directory of cgroup v2")
    return text


def _keep(field: str, value: object) -> object:
    return None if value == "forever" else _duration(60)(field, value)


def _shown_keep(value: Any) -> str:
    return "forever" if value is None else format_duration(value)


def _truth(field: str, value: object) -> bool:
    if isinstance(value, str) and value.strip().lower() in _TRUTHS:
        value = _TRUTHS[value.strip().lower()]
    if not isinstance(value, bool):
        raise Invalid(field, value, "write yes or no")
    return value


def _slots(field: str, value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= SLOTS_MAX:
        raise Invalid(field, value, f"how many runs at once: a whole number from 1 to {SLOTS_MAX}")
    return value


def _pools(field: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, list | tuple) or not value:
        raise Invalid(field, cast("object", value), 'name at least one pool, for example ["default"]')
    names = [check_name(field, name) for name in cast("Iterable[Any]", value)]
    return tuple(dict.fromkeys(names))


def _labels(field: str, value: object) -> dict[str, str]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    return check_labels(field, value)


def _channels(field: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise Invalid(field, value, 'name the channels, for example ["ops"]')
    return check_alert(cast("object", value))


def _shown_channels(value: Any) -> str:
    return ", ".join(value) or "(none)"


def _shown_labels(value: Any) -> str:
    return ", ".join(f"{name}={text}" for name, text in value.items()) or "(none)"


def _shown_truth(value: Any) -> str:
    return "(by the address)" if value is None else "yes" if value else "no"


def _shown_words(value: Any) -> str:
    return ", ".join(str(one) for one in value) or "(none)"


def _shown_word(value: Any) -> str:
    return "(none)" if value is None else str(value)


def _shown(value: Any) -> str:
    return "(chosen by the worker)" if value is None else str(value)


def _shown_path(value: Any) -> str:
    return "(standard error)" if value is None else str(value)


def _shown_state_dir(value: Any) -> str:
    return "(the user's state folder)" if value is None else str(value)


def _shown_duration(value: Any) -> str:
    return "(as the database needs)" if value is None else format_duration(value)


def mask_password(url: str) -> str:
    """Return a URL with its password left out, to be shown."""
    user = "://[^:/@]*:" if "://" in url else "^[^:/@]*:"
    url = re.sub(rf"({user}).*@", r"\1***@", url)  # up to the last @: a password may hold one by mistake
    return re.sub(r"((?:password|passwd|sslpassword)=)[^&]*", r"\1***", url)


def _masked(value: Any) -> str:
    return mask_password(value) if isinstance(value, str) else "(SQLite in the user's state folder)"


# fmt: off
SETTINGS: tuple[Setting, ...] = (
    #       key              variable              default       read                           show
    Setting("database",      "ROTA_DB",            None,         _text,                         _masked),
    Setting("zone",          "ROTA_ZONE",          "UTC",        _zone,                         _shown),
    Setting("poll",          "ROTA_POLL",          None,         _duration(0.1),                _shown_duration),
    Setting("lease",         "ROTA_LEASE",         LEASE_SECONDS, _duration(LEASE_SECONDS_MIN),  _shown_duration),
    Setting("retry_delay",   "ROTA_RETRY_DELAY",   10.0,         _duration(0, zero_ok=True),    _shown_duration),
    Setting("alert_default", "ROTA_ALERT_DEFAULT", (),           _channels,                     _shown_channels),
    Setting("state_dir",     "ROTA_STATE_DIR",     None,         _path,                         _shown_state_dir),
    Setting("log_file",      "ROTA_LOG_FILE",      None,         _path,                         _shown_path),
    Setting("slots",         "ROTA_SLOTS",         None,         _slots,                        _shown),
    Setting("pools",         "ROTA_POOLS",         ("default",), _pools,                        ", ".join),
    Setting("labels",        "ROTA_LABELS",        NO_LABELS,    _labels,                       _shown_labels),
    Setting("drain_timeout", "ROTA_DRAIN_TIMEOUT", 60.0,         _duration(0, zero_ok=True),    _shown_duration),
    Setting("on_term",       "ROTA_ON_TERM",       OnTerm.AUTO,  _on_term,                      _shown),
    Setting("cgroup",        "ROTA_CGROUP",        "auto",       _cgroup,                       _shown),
    Setting("keep_output",   "ROTA_KEEP_OUTPUT",   2592000.0,    _keep,                         _shown_keep),
    Setting("keep_audit",    "ROTA_KEEP_AUDIT",    31536000.0,   _keep,                         _shown_keep),
    Setting("web_names",     "ROTA_WEB_NAMES",     (),           read_names,                    _shown_words),
    Setting("behind_tls",    "ROTA_BEHIND_TLS",    None,         _truth,                        _shown_truth),
    Setting("trust_proxy",   "ROTA_TRUST_PROXY",   None,         read_header,                   _shown_word),
    Setting("proxy_from",    "ROTA_PROXY_FROM",    (),           read_networks,                 _shown_words),
    Setting("open_metrics",  "ROTA_OPEN_METRICS",  False,        _truth,                        _shown_truth),
    Setting("keep_runs",     "ROTA_KEEP_RUNS",     KEEP_DEFAULT, check_keep_setting,            format_keep),
)
# fmt: on
# Those that are called otherwise than their key.
_FLAGS = {"database": "--db", "pools": "--pool", "labels": "--label", "web_names": "--name"}
KEYS = tuple(setting.key for setting in SETTINGS)


def find_misspelt(environ: Mapping[str, str], commands: Iterable[str]) -> list[tuple[str, str]]:
    """Find the variables that nobody reads and that are spelled almost as those of settings, each with the right one.

    ``commands`` are the first words of the command line, with which the variables of its flags begin.
    """
    if "ROTA_RUN_ID" in environ:  # the process of a job: ROTA_SLOT and the others are facts of its run
        return []
    right = {f"ROTA_{setting.key.upper()}": setting.variable for setting in SETTINGS}
    right |= {name: name for name in (*right.values(), CONFIG_VARIABLE, DATABASE_FILE_VARIABLE)}
    found: list[tuple[str, str]] = []
    for name in sorted(environ):
        if not name.startswith("ROTA_") or right.get(name) == name:
            continue
        begins = next((of for command in commands if name.startswith(of := f"ROTA_{command.upper()}_")), "ROTA_")
        near = difflib.get_close_matches(name, [one for one in right if one.startswith(begins)], 1, LIKENESS_MIN)
        found += [(name, right[one]) for one in near]
    return found


def read_config(
    file: Path | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Config:
    """Merge the layers. ``flags`` holds only what was given; without ``file``, ``ROTA_CONFIG`` may name one.

    Raises:
        ConfigError: the file cannot be read, a key is not known, or a value of the file is refused.
        Invalid: a variable or a flag is refused.
    """
    environ = os.environ if environ is None else environ
    flags = flags or {}
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    written: Mapping[str, Any] = _read_file(file) if file is not None else {}
    resolved = {setting.key: _resolve(setting, file, written, environ, flags) for setting in SETTINGS}
    connections = _read_connections(file, written.get("connections"))
    for name, connection in connections.items():
        resolved[f"connections.{name}.url"] = Resolved(connection.url, f"file {file}", mask_password(connection.url))
    environments = _read_environments(file, written.get("environments"))
    for one in environments:
        resolved[f"environments.{one.spelled}"] = Resolved(one, f"file {file}", _shown_environment(one))
    secrets = _read_secrets(file, written.get("secrets"))
    for source in secrets:
        resolved[f"secrets.{source.name}"] = Resolved(source, f"file {file}", str(source))
    alerts = _read_alerts(file, written.get("alerts"), written.get("smtp"), len(secrets))
    for channel in alerts:
        resolved[f"alerts.{channel.name}"] = Resolved(channel, f"file {file}", str(channel))
    oidc = _read_oidc(file, written.get("oidc"))
    if oidc is not None:
        resolved["oidc"] = Resolved(oidc, f"file {file}", f"{oidc.issuer}, as {oidc.client_id}")
    return Config(
        database=resolved["database"].value,
        zone=resolved["zone"].value,
        poll_seconds=resolved["poll"].value,
        lease_seconds=resolved["lease"].value,
        retry_delay_seconds=resolved["retry_delay"].value,
        alert_default=resolved["alert_default"].value,
        state_dir=resolved["state_dir"].value,
        log_file=resolved["log_file"].value,
        slots=resolved["slots"].value,
        pools=resolved["pools"].value,
        labels=resolved["labels"].value,
        drain_timeout_seconds=resolved["drain_timeout"].value,
        on_term=resolved["on_term"].value,
        cgroup=resolved["cgroup"].value,
        keep_output_seconds=resolved["keep_output"].value,
        keep_audit_seconds=resolved["keep_audit"].value,
        web_names=resolved["web_names"].value,
        behind_tls=resolved["behind_tls"].value,
        trust_proxy=resolved["trust_proxy"].value,
        proxy_from=resolved["proxy_from"].value,
        open_metrics=resolved["open_metrics"].value,
        keep_runs=resolved["keep_runs"].value,
        connections=connections,
        environments=environments,
        secrets=secrets,
        alerts=alerts,
        oidc=oidc,
        resolved=resolved,
    )


def _resolve(
    setting: Setting,
    file: Path | None,
    written: Mapping[str, Any],
    environ: Mapping[str, str],
    flags: Mapping[str, object],
) -> Resolved:
    if setting.key in flags:
        flag = _FLAGS.get(setting.key) or f"--{setting.key.replace('_', '-')}"
        value, origin = setting.read(flag, flags[setting.key]), f"flag {flag}"
    elif environ.get(setting.variable):  # an empty variable is one that is not set
        value, origin = setting.read(setting.variable, environ[setting.variable]), setting.variable
    elif setting.key == "database" and environ.get(DATABASE_FILE_VARIABLE):
        # Whoever connects reads that file, by the rule of all doors; here it only counts more than ours.
        return Resolved(None, DATABASE_FILE_VARIABLE, f"(the URL in {environ[DATABASE_FILE_VARIABLE]})")
    elif setting.key in written:
        origin = f"file {file}"
        try:
            value = setting.read(setting.key, written[setting.key])
        except Invalid as error:
            raise ConfigError(f"{file}: {error}") from error
    else:
        value, origin = setting.default, "default"
    return Resolved(value, origin, setting.show(value))


def _read_file(file: Path) -> Mapping[str, Any]:
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {file} cannot be read: {_because(error)}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration {file} is not TOML: {error}") from error
    _refuse_unknown(file, written, (*KEYS, "connections", "environments", "secrets", "alerts", "smtp", "oidc"), "")
    return written


def _read_connections(file: Path | None, written: object) -> dict[str, Connection]:
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise ConfigError(f"{file}: connections is a section for each: [connections.NAME] with url = ...")
    found: dict[str, Connection] = {}
    for name, section in cast("dict[str, Any]", written).items():
        field = f"connections.{name}"
        try:
            check_name("connections", name)
            if name == OWN_CONNECTION:
                raise Invalid(
                    "connections", name, "it is the name of the connection to Rota's own database: choose another"
                )
            if not isinstance(section, dict):
                raise Invalid(field, mask_password(str(section)), f"it is a section: [{field}] with url = ...")
            facts = cast("dict[str, Any]", section)
            _refuse_unknown(file, facts, ("url",), f"{field}.")
            found[name] = Connection(name, _text(f"{field}.url", facts.get("url")))
        except Invalid as error:
            raise ConfigError(f"{file}: {error}") from error
    return found


def _read_environments(file: Path | None, written: object) -> tuple[Environment, ...]:
    """Read ``[environments.NAME]``, or ``[[environments.NAME]]`` for each of several versions."""
    if written is None:
        return ()
    if not isinstance(written, dict):
        raise ConfigError(f"{file}: environments is a section for each: [environments.NAME] with version = ...")
    found: dict[str, Environment] = {}
    for name, sections in cast("dict[str, Any]", written).items():
        field = f"environments.{name}"
        for section in cast("list[Any]", sections) if isinstance(sections, list) else [sections]:
            if not isinstance(section, dict):
                raise ConfigError(f"{file}: {field} is a section: [{field}] with version = ...")
            facts = cast("dict[str, Any]", section)
            _refuse_unknown(file, facts, ENVIRONMENT_KEYS, f"{field}.")
            try:
                one = Environment.checked(name, **({"version": None} | facts))
            except Invalid as error:
                where = "environments" if error.field == "name" else f"{field}.{error.field}"
                raise ConfigError(f"{file}: {Invalid(where, error.value, error.rule)}") from error
            if one.spelled in found:
                raise ConfigError(f"{file}: {field} has version {one.version} twice")
            found[one.spelled] = one
    return tuple(found.values())


def _read_secrets(file: Path | None, written: object) -> tuple[SecretSource, ...]:
    """Read ``[secrets]``. What is refused is not shown: it may be one."""
    if written is None:
        return ()
    if not isinstance(written, dict):
        raise ConfigError(f'{file}: secrets is a section: [secrets] with lines such as NAME = {{ file = "/path" }}')
    found: list[SecretSource] = []
    for name, section in cast("dict[str, Any]", written).items():
        if not isinstance(section, dict):
            rule = (
                f'write where it is, {name} = {{ file = "/path" }} or {{ env = "VARIABLE" }}, never the secret itself'
            )
            raise ConfigError(f"{file}: secrets.{name} is not a section: {rule}")
        facts = cast("dict[str, Any]", section)
        _refuse_unknown(file, facts, ("file", "env"), f"secrets.{name}.")
        try:
            found.append(SecretSource.checked(name, **facts))
        except Invalid as error:
            raise ConfigError(f"{file}: {error}") from error
    if len(found) > SECRETS_MAX:
        raise ConfigError(f"{file}: there are {len(found)} secrets, and a node has at most {SECRETS_MAX}")
    return tuple(found)


def _read_alerts(file: Path | None, written: object, smtp: object, secrets: int) -> tuple[Channel, ...]:
    """Read ``[alerts.NAME]``, with ``[smtp]``. What is refused is not shown where it may be secret."""
    if written is None:
        return ()
    if not isinstance(written, dict):
        raise ConfigError(f"{file}: alerts is a section for each channel: [alerts.NAME] with webhook, email or apprise")
    try:
        found = tuple(read_channel(name, one, smtp) for name, one in cast("dict[str, Any]", written).items())
    except Invalid as error:
        raise ConfigError(f"{file}: {error}") from error
    if len(found) > CHANNELS_MAX:
        raise ConfigError(f"{file}: there are {len(found)} channels of alerts, and a node has at most {CHANNELS_MAX}")
    if len(found) + secrets > SECRETS_MAX:
        raise ConfigError(f"{file}: secrets and channels of alerts together are at most {SECRETS_MAX}")
    return found


def _read_oidc(file: Path | None, written: object) -> Provider | None:
    """Read ``[oidc]``. What is refused is not shown where it may be secret."""
    if written is None:
        return None
    try:
        return read_provider(written)
    except Invalid as error:
        raise ConfigError(f"{file}: {error}") from None


def _shown_environment(one: Environment) -> str:
    facts = [one.interpreter or "(the worker's interpreter)"]
    if one.python_path:
        facts.append(f"path {':'.join(one.python_path)}")
    if one.variables:  # whose values may be secrets
        facts.append(f"variables {', '.join(one.variables)}")
    return ", ".join(facts)


def _refuse_unknown(file: Path | None, written: Mapping[str, Any], known: tuple[str, ...], prefix: str) -> None:
    for key in written:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{file}: there is no setting {prefix}{key}; {hint}")


def _because(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
