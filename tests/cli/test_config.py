"""The settings: their layers, their origins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rota.cli.main import COMMANDS
from rota.config import SETTINGS, find_misspelt, read_config
from rota.errors import ConfigError, Invalid


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rota.toml"


def test_a_flag_counts_more_than_a_variable_and_that_more_than_the_file_and_that_more_than_the_default(file):
    file.write_text('lease = "20s"\nzone = "Europe/Paris"\npoll = "3s"\n')
    environ = {"ROTA_LEASE": "30s", "ROTA_ZONE": "Asia/Tokyo"}

    config = read_config(file, environ, {"lease": "40s"})

    assert (config.lease_seconds, config.zone, config.poll_seconds) == (40.0, "Asia/Tokyo", 3.0)
    assert config.retry_delay_seconds == 10.0
    origins = {key: config.resolved[key].origin for key in ("lease", "zone", "poll", "retry_delay")}
    assert origins == {
        "lease": "flag --lease",
        "zone": "ROTA_ZONE",
        "poll": f"file {file}",
        "retry_delay": "default",
    }


def test_a_value_set_to_its_default_is_told_apart_from_one_that_is_not_set(file):
    file.write_text('lease = "60s"')

    config = read_config(file, {})

    assert config.resolved["lease"].origin == f"file {file}"
    assert config.lease_seconds == read_config(None, {}).lease_seconds


def test_an_unknown_key_is_refused_with_the_nearest_that_is_known(file):
    file.write_text('retry_dealy = "5s"')

    with pytest.raises(ConfigError, match=r"retry_dealy; did you mean retry_delay\?"):
        read_config(file, {})


def test_an_unknown_key_of_a_connection_is_refused(file):
    file.write_text('[connections.warehouse]\nulr = "sqlite:////x"')

    with pytest.raises(ConfigError, match=r"connections\.warehouse\.ulr; did you mean connections\.warehouse\.url"):
        read_config(file, {})


def test_connections_are_read_and_their_passwords_are_never_shown(file):
    url = "postgresql://rota:secret@db/warehouse"
    file.write_text(f'database = "mysql://root:hidden@db/rota"\n[connections.warehouse]\nurl = "{url}"')

    config = read_config(file, {})

    assert config.connections["warehouse"].url == url
    assert config.database == "mysql://root:hidden@db/rota"
    shown = [resolved.text for resolved in config.resolved.values()]
    assert "postgresql://rota:***@db/warehouse" in shown
    assert not any("secret" in text or "hidden" in text for text in shown)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('lease = "1.5x"', "a duration looks like"),
        ("lease = -1", "must not be negative"),
        ('lease = "1s"', "at least 3s"),
        ('zone = "JST-9"', "IANA name"),
        ("slots = 0", "from 1 to"),
        ("slots = true", "from 1 to"),
        ("pools = []", "at least one pool"),
        ('pools = ["a b"]', "pools"),
        ("database = 7", "text"),
        ("connections = 3", "a section for each"),
        ('[connections.rota]\nurl = "sqlite:////x"', "the name of the connection to Rota's own database"),
        ("lease = ", "is not TOML"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused_with_the_name_of_the_file(file, text, said):
    file.write_text(text)

    with pytest.raises(ConfigError, match=said) as refused:
        read_config(file, {})

    assert str(file) in str(refused.value)


def test_a_variable_that_breaks_its_rule_is_refused_with_its_name():
    with pytest.raises(Invalid) as refused:
        read_config(None, {"ROTA_SLOTS": "many"})

    assert (refused.value.field, refused.value.value) == ("ROTA_SLOTS", "many")


def test_an_empty_variable_is_one_that_is_not_set():
    assert read_config(None, {"ROTA_LEASE": ""}).resolved["lease"].origin == "default"


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("ROTA_LEASSE", "ROTA_LEASE"),
        ("ROTA_STATEDIR", "ROTA_STATE_DIR"),
        ("ROTA_POOL", "ROTA_POOLS"),
        ("ROTA_DBB", "ROTA_DB"),
        ("ROTA_DATABASE_URL", "ROTA_DB"),
        ("ROTA_DB_FIEL", "ROTA_DB_FILE"),
        ("ROTA_CONFIGS", "ROTA_CONFIG"),
        ("ROTA_UP_LEASE", None),  # a flag's
        ("ROTA_DB_UPGRADE_DB", None),
        ("ROTA_TEST_DATABASES", None),
        ("ROTA_ANYTHING_ELSE", None),
        ("OTHER_LEASE", None),
    ],
)
def test_a_variable_that_is_spelled_almost_as_that_of_a_setting_is_found(written, right):
    said = [] if right is None else [(written, right)]

    assert find_misspelt({written: "x", "ROTA_DB": "sqlite://"}, COMMANDS) == said


def test_no_variable_that_somebody_reads_is_taken_for_a_misspelt_one():
    settings = [setting.variable for setting in SETTINGS]
    facts = [f"ROTA_{name}" for name in ("RUN_ID", "JOB", "SLOT", "NODE", "KEY", "CONTROL", "PERIOD", "RANGE_END")]

    assert find_misspelt(dict.fromkeys([*settings, "ROTA_CONFIG", "ROTA_DB_FILE", "ROTA_JSON"], "x"), COMMANDS) == []
    assert find_misspelt(dict.fromkeys(facts, "x"), COMMANDS) == []


def test_a_misspelt_variable_is_warned_of_and_stops_nothing(rota):
    result = rota("job", "list", environ={"ROTA_LEASSE": "5s"})

    assert result.stderr == "warning: nothing reads the variable ROTA_LEASSE; did you mean ROTA_LEASE?\n"
    assert result.exit_code == 0


def test_a_file_that_is_not_there_is_refused(file):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config(file, {})


def test_the_variable_names_the_file_when_nothing_else_does(file):
    file.write_text("slots = 3")

    assert read_config(None, {"ROTA_CONFIG": str(file)}).slots == 3


def test_the_file_that_holds_the_database_counts_more_than_the_configuration(file):
    file.write_text('database = "sqlite:////from-the-configuration"')

    config = read_config(file, {"ROTA_DB_FILE": "/etc/rota/url"})

    # Who connects reads that file; the configuration's database must not be used meanwhile.
    assert config.database is None
    assert config.resolved["database"].origin == "ROTA_DB_FILE"


def test_pools_of_a_variable_may_be_parted_by_commas_or_blanks():
    assert read_config(None, {"ROTA_POOLS": "a, b  c"}).pools == ("a", "b", "c")


def test_environments_are_read_and_the_values_of_their_variables_never_shown(file):
    file.write_text("""
[environments.shop]
version = "1.2"
interpreter = "/srv/shop/venv/bin/python"
python_path = ["/srv/shop"]
variables = { TOKEN = "secret" }

[[environments.tools]]
version = "1"
[[environments.tools]]
version = "2"
""")

    config = read_config(file, {})

    assert [one.spelled for one in config.environments] == ["shop==1.2", "tools==1", "tools==2"]
    shown = {key: resolved.text for key, resolved in config.resolved.items() if key.startswith("environments.")}
    assert shown == {
        "environments.shop==1.2": "/srv/shop/venv/bin/python, path /srv/shop, variables TOKEN",
        "environments.tools==1": "(the worker's interpreter)",
        "environments.tools==2": "(the worker's interpreter)",
    }
    assert config.resolved["environments.shop==1.2"].origin == f"file {file}"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("environments = 3", r"environments is a section for each"),
        ("environments.shop = 3", r"environments\.shop is a section"),
        ("[environments.shop]", r"environments\.shop\.version is not given"),
        ("[environments.shop]\nversion = 1.2", r"environments\.shop\.version 1\.2 is refused: a version is text"),
        ('[environments.shop]\nverson = "1"', r"shop\.verson; did you mean environments\.shop\.version\?"),
        (
            '[environments.shop]\nversion = "1"\ninterpreter = "python3"',
            r"environments\.shop\.interpreter 'python3' is",
        ),
        (
            '[environments.shop]\nversion = "1"\npython_path = "/srv"',
            r"environments\.shop\.python_path '/srv' is refused",
        ),
        ('[environments."two words"]\nversion = "1"', r"environments 'two words' is refused"),
        ('[environments.default]\nversion = "1"', r"default is the worker's own"),
        ('[[environments.shop]]\nversion = "1"\n[[environments.shop]]\nversion = "1"', r"shop has version 1 twice"),
    ],
)
def test_an_environment_that_is_written_wrong_is_refused_with_its_key(file, written, said):
    file.write_text(written)

    with pytest.raises(ConfigError, match=said):
        read_config(file, {})


def test_secrets_are_places_and_are_shown_as_such(file):
    file.write_text('[secrets]\nDB_PASSWORD = { file = "/run/secrets/db" }\nTOKEN = { env = "SHOP_TOKEN" }\n')

    config = read_config(file, {"SHOP_TOKEN": "hunter2"})

    assert [(one.name, one.file, one.env) for one in config.secrets] == [
        ("DB_PASSWORD", "/run/secrets/db", None),
        ("TOKEN", None, "SHOP_TOKEN"),
    ]
    shown = {key: resolved.text for key, resolved in config.resolved.items() if key.startswith("secrets.")}
    assert shown == {"secrets.DB_PASSWORD": "file /run/secrets/db", "secrets.TOKEN": "variable SHOP_TOKEN"}
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('secrets = "hunter2"', r"secrets is a section"),
        ('[secrets]\nDB = "hunter2"', r"secrets\.DB is not a section: write where it is, .* never the secret itself"),
        ('[secrets]\nDB = { value = "hunter2" }', r"there is no setting secrets\.DB\.value; known are file, env"),
        ("[secrets]\nDB = {}", r"either file or env"),
        ('[secrets]\nDB = { file = "/a", env = "B" }', r"either file or env"),
        ('[secrets]\nDB = { file = "hunter2" }', r"secrets\.DB\.file .* the absolute path"),
        ('[secrets]\nDB = { file = ["hunter2"] }', r"secrets\.DB\.file .* the absolute path"),
        ('[secrets]\nDB = { env = "hunter2-" }', r"secrets\.DB\.env .* the name of a variable"),
        ('[secrets]\n"D B" = { env = "A" }', r"secrets 'D B' is refused"),
        ('[secrets]\nROTA_DB = { env = "A" }', r"Rota's own"),
        ("[secrets]\n" + "".join(f'A{n} = {{ env = "A" }}\n' for n in range(51)), r"a node has at most 50"),
    ],
)
def test_secrets_that_cannot_be_read_are_refused_without_being_shown(file, text, message):
    file.write_text(text)

    with pytest.raises(ConfigError, match=message) as refused:
        read_config(file, {})

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://rota:hunter2@db/rota",
        "postgresql://rota:hunter2@ter@db/rota",
        "postgresql://rota:hun:hunter2/x@db/rota?application_name=a@b",
        "postgresql://db/rota?user=rota&password=hunter2&sslmode=require",
        "rota:hunter2@db/rota",
    ],
)
def test_a_password_in_a_url_is_in_nothing_that_is_shown(file, url):
    config = read_config(file=None, environ={"ROTA_DB": url})

    assert config.database == url
    for shown in (config.resolved["database"].text, repr(config)):
        assert "hunter2" not in shown
        assert "ter@" not in shown
