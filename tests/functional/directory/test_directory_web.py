"""The directory's web page as administrators and others see it: the page's container, and a real slapd behind it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import ssl
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ldap
import ldap.modlist
import pytest
import requests
from Cryptodome.Hash import MD4
from support.containers import execute
from support.directory import CHECKOUT, SUFFIX, Core, build_image, free_port
from support.images import build
from vcore.directory import web as directory_web
from vcore.people import accounts, plans
from vcore.services import templates

ADMINISTRATORS = f"cn=administrators,ou=groups,{SUFFIX}"
#: carol and erin are administrators, bob is not, dave has his first password, frank is locked.
PEOPLE = {"bob": 10001, "carol": 10002, "dave": 10003, "erin": 10004, "frank": 10005}
HASHES = ["userPassword", "sambaNTPassword", "pwdChangedTime", "pwdReset", "sambaPwdLastSet"]
SESSIONS = "ls /dev/shm/directory-web"


def dn(uid: str) -> str:
    return f"uid={uid},ou=people,{SUFFIX}"


def password(uid: str) -> str:
    return f"Chosen-by-{uid}-1"


def attributes(values: dict[str, Any]) -> list[tuple[str, list[bytes]]]:
    lists = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return ldap.modlist.addModlist({name: [str(v).encode() for v in value] for name, value in lists.items()})


class Web:
    """The page's container in front of a core's directory, and the core."""

    def __init__(self, core: Core, image: str) -> None:
        self.core, self.api = core, core.api
        self.pillar = core.pillar
        service = self.pillar["services"]["directory-web"]
        service["ports"]["https"]["number"] = free_port()
        folder = core.folder / "web"
        folder.mkdir()
        certificate = service["certificates"]["tls"]
        # The leaf of the directory names this host, too.
        key = Path(shutil.copy(core.folder / "leaf.key", folder / "leaf.key"))
        os.chown(key, certificate["owner"], certificate["group"])
        key.chmod(int(certificate["key_mode"], 8))
        mounts = {
            core.folder / "leaf.crt": certificate["certificate"],
            key: certificate["key"],
            core.paths.authority / "ca.crt": certificate["authority"],
        }
        for name, config in service["configs"].items():
            files = CHECKOUT / "salt" / "states" / "services" / "directory-web" / "files"
            names = templates.context(service, self.pillar, "")
            (folder / name).write_bytes(templates.render(files, config["template"], names))
            mounts[folder / name] = config["path"]
        network = self.api.inspect_container(core.container)["NetworkSettings"]
        self.directory = network["IPAddress"]
        self.container = self.api.create_container(
            image,
            ports=[8081],
            host_config=self.api.create_host_config(
                binds={str(source): {"bind": target, "mode": "ro"} for source, target in mounts.items()},
                port_bindings={8081: ("127.0.0.1", service["ports"]["https"]["number"])},
                extra_hosts={"ldap": self.directory},
                mem_limit=service["memory"]["limit"],
            ),
        )["Id"]
        self.api.start(self.container)
        self.url = f"https://127.0.0.1:{service['ports']['https']['number']}/"

    def execute(self, command: str) -> tuple[int, str]:
        return execute(self.api, self.container, "sh", "-c", command)

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while (health := self.execute("/sbin/server_health.sh"))[0]:
            if time.monotonic() > deadline:
                logs = self.api.logs(self.container).decode(errors="replace")
                pytest.fail(f"the page does not come up: {health[1]}\n{logs}")
            time.sleep(0.2)

    def client(self) -> requests.Session:
        client = requests.Session()
        client.trust_env = False
        client.verify = str(self.core.paths.authority / "ca.crt")
        return client

    def attempt(self, name: str, word: str, client: requests.Session | None = None) -> requests.Response:
        form = {"cmd": "login", "login": name, "password": word}
        return (client or self.client()).post(self.url + "login", data=form, timeout=30)

    def log_in(self, name: str) -> requests.Session:
        client = self.client()
        answer = self.attempt(name, password(name), client)
        assert "Logged in as" in text(answer), (text(answer), self.api.logs(self.container, tail=5))
        return client

    def command(self, client: requests.Session, command: str, **parameters: str) -> requests.Response:
        found = {"cmd": command, "server_id": "1", **parameters}
        return client.get(self.url + "cmd.php", params=found, timeout=30)

    def create(
        self, client: requests.Session, place: str, values: dict[str, str | list[str]]
    ) -> tuple[requests.Response, dict[str, Any]]:
        """Fill in and confirm the form for a new entry, as a browser does; return the answer, and what was proposed."""
        page = self.command(client, "template_engine", container=f"ou={place},{SUFFIX}")
        proposed = fields(page, "entry_form")
        filled = dict(proposed)
        for name, value in values.items():
            assert f"new_values[{name}]" in page.text, f"the form has no {name}"
            filled[f"new_values[{name}][{'' if isinstance(value, list) else 0}]"] = value
        confirm = client.post(self.url + "cmd.php", data=filled, timeout=30)
        if "create_form" not in confirm.text:
            return confirm, proposed
        answer = client.post(self.url + "cmd.php", data=fields(confirm, "create_form"), timeout=30)
        return answer, proposed

    def entry(self, name: str, wanted: list[str] | None = None) -> dict[str, list[str]] | None:
        """Return an entry as the root DN sees it."""
        connection = self.core.bind()
        try:
            found = connection.search_s(name, ldap.SCOPE_BASE, "(objectClass=*)", wanted)
        except ldap.NO_SUCH_OBJECT:
            return None
        finally:
            connection.unbind_s()
        return {attribute: [v.decode(errors="replace") for v in values] for attribute, values in found[0][1].items()}

    def bind(self, name: str, port: int) -> ldap.ldapobject.LDAPObject:
        """Bind as a person, to the directory's port on the containers' network."""
        connection = ldap.initialize(f"ldaps://{self.directory}:{port}")
        # The certificate has no address of Docker's network.
        connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_NEVER)
        connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        connection.simple_bind_s(dn(name), password(name))
        return connection


class Fields(HTMLParser):
    """Collects the fields that a form sends when nobody changes them."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.inside, self.found = form, False, {}

    def handle_starttag(self, tag: str, given: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in given}
        if tag == "form":
            self.inside = values.get("id") == self.form
        ticked = values.get("type") not in ("submit", "button", "checkbox")
        if self.inside and tag == "input" and values.get("name") and ticked:
            self.found[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.inside = False


def fields(page: requests.Response, form: str) -> dict[str, Any]:
    parser = Fields(form)
    parser.feed(page.text)
    assert parser.found, f"no form {form}: {text(page)}"
    return parser.found


def text(page: requests.Response) -> str:
    """Return what a person reads on a page."""
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page.text, flags=re.S)
    return re.sub(r"\s+", " ", bare)


class WebCore(Core):
    """A core with the page switched on."""

    def site(self, settings: dict[str, Any]) -> str:
        return super().site(settings) + "  services:\n    directory-web: {enabled: true}\n"


def populate(core: Core) -> None:
    admin = core.bind()
    for uid, number in PEOPLE.items():
        wanted = plans.person_attributes(uid, {}, number=number, pillar=core.pillar, there=None)
        admin.add_s(dn(uid), attributes(wanted))
        admin.passwd_s(dn(uid), None, f"Initial-of-{uid}-1")
        if uid != "dave":
            own = core.bind(dn(uid), f"Initial-of-{uid}-1")
            own.passwd_s(dn(uid), f"Initial-of-{uid}-1", password(uid))
            own.unbind_s()
    admin.modify_s(dn("frank"), [(ldap.MOD_REPLACE, "shadowExpire", b"1")])
    members = [dn(uid).encode() for uid in ("carol", "erin", "dave", "frank")]
    admin.modify_s(ADMINISTRATORS, [(ldap.MOD_ADD, "member", members)])
    admin.unbind_s()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    build_image()
    image = build("directory-web")
    core, page = WebCore(tmp_path_factory.mktemp("core")), None
    try:
        core.bring_up()
        populate(core)
        page = Web(core, image)
        page.wait()
        yield page
    finally:
        if page is not None:
            page.api.remove_container(page.container, force=True)
        core.remove()


@pytest.fixture(scope="module")
def carol(web: Web) -> requests.Session:
    """Return an administrator who is logged in."""
    return web.log_in("carol")


# --- what anybody gets ----------------------------------------------------------------------------------------------


def test_the_login_page_comes_over_tls_of_the_cores_authority_only(web: Web) -> None:
    answer = web.client().get(web.url, timeout=10)
    assert "Only administrators log in here" in text(answer)
    elsewhere = requests.Session()
    elsewhere.trust_env = False
    with pytest.raises(requests.exceptions.SSLError):
        elsewhere.get(web.url, timeout=10)
    plain = elsewhere.get(web.url.replace("https", "http"), timeout=10, allow_redirects=False)
    assert (plain.status_code, plain.headers["Location"]) == (307, web.url)
    headers = answer.headers
    assert headers["Server"] == "nginx" and "X-Powered-By" not in headers
    assert headers["X-Frame-Options"] == "DENY" and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Strict-Transport-Security"].startswith("max-age=")
    # Looking leaves nothing behind.
    assert "Set-Cookie" not in headers and web.execute(SESSIONS) == (0, "")


def test_the_doctor_agrees(web: Web) -> None:
    found = directory_web.checks(web.pillar, web.core.paths)
    assert [entry["ok"] for entry in found] == [True, True], found


@pytest.mark.parametrize(
    "path",
    [
        "config/config.php",
        "../config/config.php",
        "..%2fconfig%2fconfig.php",
        "lib/functions.php",
        "hooks/login.php",
        "hooks/functions/virtual-core.php",
        "templates/creation/person.xml",
        "tools/unserialize.php",
        "login.php",
        "common.php",
        "attempt",
        "js/../../config/config.php",
        "js/..%2f..%2flib/functions.php",
        "cmd.php/x.php",
        "etc/virtual-core/directory-web.json",
        "css/",
    ],
)
def test_nothing_but_its_own_pages_is_served(web: Web, path: str) -> None:
    # http.client sends a path unchanged; requests would resolve it first.
    address = web.url.removeprefix("https://").rstrip("/")
    trust = ssl.create_default_context(cafile=str(web.core.paths.authority / "ca.crt"))
    connection = http.client.HTTPSConnection(address, context=trust, timeout=10)
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    assert answer.status in (400, 404), answer.read(500)
    connection.close()


@pytest.mark.parametrize("script", ["index.php", "cmd.php", "entry_chooser.php", "view_jpeg_photo.php"])
def test_without_a_login_there_is_only_the_login(web: Web, script: str) -> None:
    for cookie in ({}, {"5d89dac18813e15aa2f75788275e3588": "a" * 32}):
        parameters = {"cmd": "schema", "server_id": "1", "dn": SUFFIX}
        answer = web.client().get(web.url + script, params=parameters, cookies=cookie, timeout=10)
        assert answer.url == web.url + "login", text(answer)
    assert web.execute(SESSIONS) == (0, "")


@pytest.mark.parametrize(
    ("name", "word", "sentence"),
    [
        ("bob", password("bob"), "You are not one of them"),
        ("carol", "Not-the-password-1", "does not accept this name and password"),
        ("nobody-there", "x", "does not accept this name and password"),
        ("dave", "Initial-of-dave-1", "Your first password has to be changed"),
        ("frank", password("frank"), "This account is locked"),
        ("carol", "", "Type your password"),
        (f"cn=admin,{SUFFIX}", "x", "Log in with your login name"),
        ("carol)(uid=*", "x", "Log in with your login name"),
        ("<script>", "x", "Log in with your login name"),
    ],
)
def test_everybody_but_administrators_is_refused_with_a_reason(web: Web, name: str, word: str, sentence: str) -> None:
    before = web.execute(SESSIONS)
    answer = web.attempt(name, word)
    assert answer.status_code == 403
    assert sentence in text(answer)
    assert "Set-Cookie" not in answer.headers and web.execute(SESSIONS) == before


# --- administrators -------------------------------------------------------------------------------------------------


def test_an_administrator_sees_the_tree(web: Web, carol: requests.Session) -> None:
    client = web.client()
    answer = web.attempt("carol", password("carol"), client)
    for name in ("ou = people", "ou = groups"):
        assert name in text(answer)
    cookie = answer.history[0].headers["Set-Cookie"].lower()
    assert all(flag in cookie for flag in ("secure", "httponly", "samesite=strict")), cookie
    entry = web.command(client, "template_engine", dn=dn("bob"))
    assert "/home/bob" in text(entry) or "/home/bob" in entry.text
    assert "PHP" not in re.sub("phpLDAPadmin", "", text(entry))
    client.get(web.url + "cmd.php?cmd=logout&server_id=1", timeout=10)
    assert client.get(web.url + "index.php", timeout=10).url == web.url + "login"


def test_a_person_made_there_is_what_our_functions_make(web: Web, carol: requests.Session) -> None:
    values = {"uid": "ada", "givenname": "Ada", "sn": "Lovelace", "cn": "Ada Lovelace", "mail": "ada@example.org"}
    answer, proposed = web.create(carol, "people", values | {"homedirectory": "/home/ada"})
    assert "has been created" in text(answer), text(answer)
    assert proposed["new_values[uidnumber][0]"] == "10006"
    data = {"given_name": "Ada", "surname": "Lovelace", "mail": "ada@example.org"}
    ours = plans.person_attributes("ada", data, number=10006, pillar=web.pillar, there=None)
    entry = web.entry(dn("ada"))
    assert entry is not None and set(entry.pop("objectClass")) - {"top"} == set(ours.pop("objectClass")) - {
        "sambaSamAccount"
    }
    # The next run of the states adds Samba's part.
    assert entry == {name: value for name, value in ours.items() if not name.startswith("samba")}


def test_a_first_password_completes_a_person_made_there_whose_number_nobody_else_gets(
    web: Web, carol: requests.Session
) -> None:
    values = {"uid": "mary", "sn": "Somerville", "cn": "Mary Somerville", "homedirectory": "/home/mary"}
    _, proposed = web.create(carol, "people", values)
    number = int(proposed["new_values[uidnumber][0]"])
    with accounts.opened(web.pillar, web.core.paths) as ours:
        first = Path(ours.reset_password("mary")["first_password"]).read_text()
        home = ours.homes.path("mary")
    entry = web.entry(dn("mary"), ["*", "pwdReset"])
    assert entry is not None
    wanted = plans.person_attributes("mary", {}, number=number, pillar=web.pillar, there=None)
    assert set(wanted["objectClass"]) <= set(entry["objectClass"])
    assert entry["sambaNTPassword"] == [MD4.new(first.encode("utf-16-le")).hexdigest()]
    assert (entry["pwdReset"], entry["sambaPwdLastSet"]) == (["TRUE"], ["0"])
    assert entry["sambaSID"] == wanted["sambaSID"]
    assert home.stat().st_uid == number
    with accounts.opened(web.pillar, web.core.paths) as ours:
        ours.remove("mary", archive=False)
    values = {"uid": "emmy", "sn": "Noether", "cn": "Emmy Noether", "homedirectory": "/home/emmy"}
    answer, _ = web.create(carol, "people", values | {"uidnumber": str(number)})
    assert f"The number {number} is or was somebody else's" in text(answer)
    answer, proposed = web.create(carol, "people", values)
    assert "has been created" in text(answer), text(answer)
    assert proposed["new_values[uidnumber][0]"] == str(number + 1)


def test_a_group_made_there_names_its_members(web: Web, carol: requests.Session) -> None:
    answer, proposed = web.create(carol, "groups", {"cn": "sequencing", "member": [dn("bob"), dn("erin")]})
    assert "has been created" in text(answer), text(answer)
    entry = web.entry(f"cn=sequencing,ou=groups,{SUFFIX}")
    assert entry is not None
    assert set(entry["objectClass"]) - {"top"} == set(plans.GROUP_CLASSES)
    assert entry["gidNumber"] == [proposed["new_values[gidnumber][0]"]] == ["10001"]
    assert sorted(entry["member"]) == [dn("bob"), dn("erin")]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"uid": "root"}, "root is a name that the system uses"),
        ({"uid": "people"}, "people is a name that the system uses"),
        ({"uid": "../x"}, "A name has at most 31"),
        ({"uid": "Grace"}, "A name has at most 31"),
        ({"uid": "grace hopper"}, "A name has at most 31"),
        ({"uid": "grace,ou=x"}, "People are made below ou=people"),
        ({"uid": "gr\u0430ce"}, "A name has at most 31"),
        ({"uid": "grace", "homedirectory": "/"}, "The home of grace is /home/grace"),
        ({"uid": "grace", "uidnumber": "0"}, "Numbers of people and groups are from"),
        ({"uid": "grace", "uidnumber": "10001"}, "The number 10001 is or was somebody else's"),
        ({"uid": "grace", "gidnumber": "0"}, "The home of grace is /home/grace"),
    ],
)
def test_a_bad_new_person_is_refused_with_a_reason(
    web: Web, carol: requests.Session, values: dict[str, str], sentence: str
) -> None:
    connection = web.core.bind()
    before = sorted(name for name, _ in connection.search_s(SUFFIX, ldap.SCOPE_SUBTREE, attrlist=["1.1"]))
    home = {"homedirectory": f"/home/{values['uid']}", "sn": "Hopper", "cn": "Grace Hopper"}
    answer, _ = web.create(carol, "people", home | values)
    assert sentence in text(answer), text(answer)
    assert before == sorted(name for name, _ in connection.search_s(SUFFIX, ldap.SCOPE_SUBTREE, attrlist=["1.1"]))


def test_a_password_is_not_changed_there(web: Web, carol: requests.Session) -> None:
    before = web.entry(dn("bob"), HASHES)
    assert before is not None and before["sambaNTPassword"]
    for name in ("userPassword", "userpassword", "userPassword;x-any", "sambaNTPassword"):
        for command in ("update_confirm", "update"):
            form = {"cmd": command, "server_id": "1", "dn": dn("bob"), f"new_values[{name}][0]": "Set-in-page-1"}
            answer = carol.post(web.url + "cmd.php", data=form, timeout=30)
            assert "Passwords are not changed on these pages" in text(answer), text(answer)
    assert "userPassword" not in web.command(carol, "export", dn=dn("bob"), exporter_id="LDIF", scope="base").text
    assert web.entry(dn("bob"), HASHES) == before


def test_names_numbers_and_entries_stay(web: Web, carol: requests.Session) -> None:
    before = web.entry(dn("bob"), ["*", "+"])
    for name, value in (("uidnumber", "0"), ("homedirectory", "/"), ("shadowexpire", "2"), ("uid", "robert")):
        form = {"cmd": "update", "server_id": "1", "dn": dn("bob"), f"new_values[{name}][0]": value}
        assert "does not change here" in text(carol.post(web.url + "cmd.php", data=form, timeout=30))
    for command in (
        "delete",
        "rdelete",
        "rename",
        "copy",
        "import",
        "purge_cache",
        "../config/config",
        "../../../etc/passwd",
    ):
        form = {"cmd": command, "server_id": "1", "dn": dn("bob"), "new_rdn": "uid=robert"}
        assert "could not be run" in text(carol.post(web.url + "cmd.php", data=form, timeout=30)), command
    assert web.entry(dn("bob"), ["*", "+"]) == before


def test_contact_data_is_changed_there(web: Web, carol: requests.Session) -> None:
    form = {"cmd": "update", "server_id": "1", "dn": dn("erin"), "new_values[roomnumber][0]": "12"}
    carol.post(web.url + "cmd.php", data=form, timeout=30)
    assert web.entry(dn("erin"), ["roomNumber"]) == {"roomNumber": ["12"]}


def test_who_leaves_the_administrators_is_out_at_the_next_click(web: Web) -> None:
    erin = web.log_in("erin")
    admin = web.core.bind()
    admin.modify_s(ADMINISTRATORS, [(ldap.MOD_DELETE, "member", dn("erin").encode())])
    assert web.command(erin, "template_engine", dn=dn("bob")).url == web.url + "login"
    admin.modify_s(ADMINISTRATORS, [(ldap.MOD_ADD, "member", dn("erin").encode())])


def test_a_login_is_read_back_whatever_random_bytes_are_in_it(web: Web) -> None:
    # When the bytes of a nonce end in ':', as one in 256 does, phpLDAPadmin's own way decrypts something else.
    script = """
        define("LIBDIR", "/usr/share/phpldapadmin/lib/"); define("DEBUG_ENABLED", 0);
        require LIBDIR . "functions.php";
        for ($lost = 0, $i = 0; $i < 5000; $i++) {
            $word = " word $i ";
            $lost += blowfish_decrypt(blowfish_encrypt($word, "a secret"), "a secret") !== $word;
        }
        echo $lost;
    """
    assert web.execute(f"php -r '{script}'") == (0, "0")


# --- the directory's own wall ---------------------------------------------------------------------------------------


def test_the_directory_itself_keeps_passwords_off_the_pages_port(web: Web) -> None:
    carol = web.bind("carol", 1636)
    before = web.entry(dn("bob"), HASHES)
    new = plans.person_attributes("grace", {}, number=10900, pillar=web.pillar, there=None)
    attempts = [
        (carol.modify_s, dn("bob"), [(ldap.MOD_REPLACE, "userPassword", b"Set-over-port-1")]),
        (carol.modify_s, dn("bob"), [(ldap.MOD_DELETE, "userPassword", None)]),
        (carol.modify_s, dn("bob"), [(ldap.MOD_REPLACE, "pwdReset", b"TRUE")]),
        (carol.modify_s, dn("bob"), [(ldap.MOD_REPLACE, "sambaPwdLastSet", b"0")]),
        (carol.passwd_s, dn("bob"), None, "Set-over-port-1"),
        (carol.passwd_s, dn("carol"), password("carol"), "Set-over-port-1"),
        (carol.add_s, dn("grace"), attributes(new | {"userPassword": "Set-over-port-1"})),
    ]
    for operation, *arguments in attempts:
        with pytest.raises(ldap.INSUFFICIENT_ACCESS):
            operation(*arguments)
    seen = carol.search_s(dn("bob"), ldap.SCOPE_BASE, "(objectClass=*)", [*HASHES, "uid"])[0][1]
    assert seen == {"uid": [b"bob"]}
    assert web.entry(dn("bob"), HASHES) == before and web.entry(dn("grace")) is None
    # Values other than passwords pass, and so do passwords, Samba's with them, over the directory's own port.
    carol.modify_s(dn("bob"), [(ldap.MOD_REPLACE, "roomNumber", b"7")])
    web.bind("carol", 636).passwd_s(dn("bob"), None, "Set-by-carol-1")
    after = web.entry(dn("bob"), HASHES)
    assert before is not None and after is not None and after["sambaNTPassword"] != before["sambaNTPassword"]


# --- the container --------------------------------------------------------------------------------------------------


def test_its_programs_can_write_to_no_more_than_they_need(web: Web) -> None:
    _, programs = web.execute("stat -c %U /proc/$(pgrep -o nginx) /proc/$(pgrep -o php-fpm)")
    assert programs.split() == ["directory-web", "www-data"]
    find = "setpriv --reuid=www-data --regid=www-data --clear-groups find / -xdev -writable ! -type l ! -path '/proc/*'"
    writable = web.execute(f"{find} 2> /dev/null")[1].split()
    run = "/run/directory-web/php"
    assert set(writable) <= {"/tmp", "/var/tmp", "/run/lock", run, f"{run}/fpm.sock"}, writable
    key = web.execute("setpriv --reuid=www-data --regid=www-data --clear-groups cat /etc/directory-web/tls/key.pem")
    assert key[0] != 0 and "Permission denied" in key[1]
    assert web.execute("stat -c '%U %a' /dev/shm/directory-web")[1] == "www-data 700\n"


def test_what_it_logs_names_logins_and_no_password(web: Web) -> None:
    logs = web.api.logs(web.container).decode(errors="replace")
    assert re.search(r"login of carol from \S+: accepted", logs)
    assert re.search(r"login of bob from \S+: refused: no administrator", logs)
    assert not [word for word in ("Chosen-by", "Initial-of", "Set-in-page") if word in logs]


def test_logins_are_slowed_down(web: Web) -> None:
    """This test comes last, because it uses up the attempts that this address has."""
    codes = [web.attempt("nobody-there", "x").status_code for _ in range(25)]
    assert codes[-1] == 429 and set(codes) <= {403, 429}
