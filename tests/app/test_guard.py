"""The page's server answers its own page, and nobody else."""

import re

import pytest
from asking import ask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse

from pipeline.app import guard
from pipeline.app.guard import Guard, Secrets
from pipeline.errors import PipelineError

PORT = 8321


class Place:
    """A guarded application that notes what it was asked."""

    def __init__(self, names=(), fails=None):
        self.asked, self.announced, self.fails = [], [], fails
        self.keys = Secrets(announce=self.announced.append)
        self.guard = Guard(self.answer, self.keys, PORT, names)

    async def answer(self, scope, receive, send):
        request = Request(scope, receive)
        body = await request.body()
        self.asked.append((request.method, request.url.path, len(body)))
        if self.fails:
            raise self.fails
        if request.url.path == "/":
            answer = HTMLResponse("<p>the page", headers=guard.PAGE_POLICY)
        else:
            answer = PlainTextResponse("answered")
        await answer(scope, receive, send)

    def ask(self, path="/state", method="GET", signed_in=True, root=False, **more):
        if signed_in:
            more.setdefault("cookie", f"{self.guard.cookie}={self.keys.session}")
        return ask(self.guard, path if root else self.keys.home[:-1] + path, method, **more)


@pytest.fixture
def place():
    return Place()


def test_the_printed_address_opens_the_page_once_and_then_a_cookie_does(place):
    address = f"/?token={place.keys.token}"
    assert place.keys.opening == f"{place.keys.home}?token={place.keys.token}"
    opened = place.ask(address, signed_in=False)
    assert (opened.status, opened.text) == (200, "<p>the page")
    cookie = opened.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", f"Path={place.keys.home}"} <= set(cookie.split("; "))
    again = place.ask(address, signed_in=False)
    assert again.status == 403
    assert "set-cookie" not in again.headers
    assert "terminal" in again.text
    assert place.announced == [place.keys.opening]  # for another browser
    assert place.ask("/state", cookie=cookie.partition(";")[0]).status == 200
    assert place.ask(address).status == 200  # the same browser


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cookie": "pipeline-8321="},
        {"cookie": "pipeline-8321=wrong"},
        {"cookie": "pipeline-8321=\xe9\xff"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic d3Jvbmc6"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/?token="), ("GET", "/state"), ("POST", "/predict"), ("GET", "/x")],
)
@pytest.mark.parametrize("root", [True, False])
def test_without_its_secret_nothing_is_answered(place, method, path, headers, root):
    assert place.ask(path, method, signed_in=False, root=root, **headers).status == 403
    assert place.asked == []


def test_a_token_is_taken_only_where_the_page_is_opened(place):
    for method, path in [("POST", "/"), ("GET", "/state"), ("POST", "/predict")]:
        answer = place.ask(f"{path}?token={place.keys.token}", method, signed_in=False)
        assert answer.status == 403
    assert place.announced == []


def test_a_program_with_its_token_may_classify_and_do_nothing_else(place):
    key = {"authorization": f"Bearer {place.keys.program}"}
    assert place.ask("/predict", "POST", signed_in=False, root=True, **key).status == 200
    for method, path in [("GET", "/"), ("GET", "/images"), ("POST", "/answer")]:
        for root in (True, False):
            assert place.ask(path, method, signed_in=False, root=root, **key).status == 403


@pytest.mark.parametrize("path", ["/predict", "/state", "/"])
@pytest.mark.parametrize("given", ["Bearer wrong", "Bearer ", "Basic d3Jvbmc6", "", "{}", "{}x"])
@pytest.mark.parametrize("root", [True, False])
def test_a_program_that_is_refused_reads_of_its_token_whatever_that_is(place, path, given, root):
    header = given.format(place.keys.program)
    answer = place.ask(path, "POST", signed_in=False, root=root, authorization=header)
    assert answer.status == 403
    assert answer.text.startswith("The token of this request is wrong")
    assert "address" not in answer.text
    assert place.keys.program not in answer.text
    assert place.ask(path, "POST", signed_in=False).text.startswith("This address was used")


@pytest.mark.parametrize("path", ["/", "/?token={}", "/state", "/images/17/picture", "/predict"])
def test_the_page_and_all_it_asks_for_lie_where_no_other_server_has_anything(place, path):
    path = path.format(place.keys.token)
    later = Place()  # the same port, after a restart
    assert re.fullmatch("/[A-Za-z0-9_-]{16}/", place.keys.home)
    for wrong in (path, later.keys.home[:-1] + path, f"/x{place.keys.home[:-1]}{path}"):
        assert place.ask(wrong, root=True).status == 403
        assert place.ask(wrong, root=True, signed_in=False).status == 403
    assert place.asked == place.announced == []
    assert place.ask(path).status == 200


def test_an_address_is_spent_also_where_the_page_is_open(place):
    address = f"/?token={place.keys.token}"
    assert place.ask(address).status == 200
    assert place.announced == [place.keys.opening]
    assert place.ask(address, signed_in=False).status == 403


@pytest.mark.parametrize("token", ["", "short", "é" * 30])
def test_a_token_that_can_be_guessed_is_refused(token):
    with pytest.raises(PipelineError, match="token for programs"):
        Secrets(program=token)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8321", "localhost:8321", "LOCALHOST:8321", "[::1]:8321", "192.168.0.7:8321"]
)
def test_the_page_goes_by_localhost_and_by_addresses_in_numbers(place, host):
    assert place.ask(host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example:8321", "localhost.evil.example:8321", "127.0.0.1.evil.example:8321"),
        *("localhost", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8322", "", ":8321", None),
        *("localhost:8321@evil.example:8321", "x@localhost:8321", "localhost:8321/../", "[::1"),
        *("localhost:8321 ", "localhost:99999999", "localhost:8321\xff", "[v1.x]:8321"),
        ["localhost:8321", "evil.example:8321"],
    ],
    ids=repr,
)
def test_a_name_that_somebody_else_may_have_given_is_refused(place, host):
    assert place.ask(host=host).status == 421
    assert place.ask(f"/?token={place.keys.token}", signed_in=False, host=host).status == 421
    assert place.asked == place.announced == []


def test_a_name_that_was_given_to_the_server_is_its_name():
    place = Place(names=("Line7",))
    assert place.ask(host="line7:8321").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:8322"},
        {"origin": "https://127.0.0.1:8321"},
        {"origin": "http://localhost:8321"},  # it was asked for as 127.0.0.1
        {"origin": "null"},
        {"origin": "null", "sec_fetch_site": "none"},
        {"origin": "null", "sec_fetch_site": "cross-site"},
        {"origin": "http://evil.example", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},  # another port of this computer
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", "/state"), ("GET", "/")]
)
def test_what_another_page_asks_for_is_refused_cookie_or_not(place, method, path, headers):
    assert place.ask(path, method, **headers).status == 403
    assert place.asked == []


def test_a_link_to_the_page_may_be_followed_from_anywhere(place):
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    link["sec_fetch_dest"] = "document"
    assert place.ask("/", **link).status == 200
    assert place.ask("/state", **link).status == 403


def test_what_the_page_asks_for_is_answered(place):
    own = {"origin": "http://127.0.0.1:8321", "sec_fetch_site": "same-origin"}
    assert place.ask("/predict", "POST", body=b"picture", **own).text == "answered"
    hidden = {"origin": "null", "sec_fetch_site": "same-origin"}
    assert place.ask("/predict", "POST", body=b"picture", **hidden).text == "answered"
    assert place.asked == [("POST", "/predict", 7)] * 2


def test_every_answer_forbids_what_the_page_does_not_need(place):
    for answer in (place.ask(), place.ask(signed_in=False), place.ask(host="evil.example")):
        policy = answer.headers["content-security-policy"]
        assert policy == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    assert place.ask("/").headers["content-security-policy"] == "frame-ancestors 'none'"


@pytest.mark.parametrize("length", ["100000001", "-1", "1e3", "٣", "x"])
def test_a_request_that_says_it_is_too_large_is_not_read(place, length):
    answer = place.ask("/predict", "POST", content_length=length.encode().decode("latin-1"))
    assert answer.status == 413
    assert place.asked == []


def test_a_request_that_becomes_too_large_is_not_read_to_its_end(place, monkeypatch):
    monkeypatch.setattr(guard, "MOST_BYTES", 1000)
    assert place.ask("/predict", "POST", chunks=[b"x" * 400] * 2).status == 200
    assert place.ask("/predict", "POST", chunks=[b"x" * 400] * 3).status == 413


def test_a_request_that_does_not_come_to_its_end_gives_its_place_up(place, monkeypatch):
    import asyncio

    monkeypatch.setattr(guard, "_SECONDS_FOR_A_PART", 0.01)

    async def app(scope, receive, send):
        async def never():
            await asyncio.sleep(10)

        await place.guard(scope, never, send)

    cookie = f"{place.guard.cookie}={place.keys.session}"
    assert ask(app, f"{place.keys.home}predict", "POST", cookie=cookie).status == 408


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (PipelineError("there is no\x1b such image.", fix="look"), 422, "there is no\\x1b such"),
        (HTTPException(404, "no such thing"), 404, "no such thing"),
        (ValueError("oh\x1b"), 500, "ValueError: oh\\x1b"),
        (MemoryError(), 500, "MemoryError"),
        (RecursionError("deep"), 500, "RecursionError"),
    ],
    ids=str,
)
def test_an_error_is_an_answer_and_the_next_request_is_answered(error, status, text):
    place = Place(fails=error)
    answer = place.ask("/predict", "POST")
    assert answer.status == status
    assert text in answer.json["error"]
    place.fails = None
    assert place.ask("/predict", "POST").status == 200
