"""The page in a real browser: a history by clicks, a filter, a catalogue that changes meanwhile."""

import asyncio
import threading

import pytest

from minirec.serving.server import Addresses, serve
from minirec.serving.versions import Change
from tests.ports import free_port
from tests.serving import browser

pytest.importorskip("websocket", reason="websocket-client is not installed")
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def shop(world, tmp_path_factory):
    """A server in a thread: its address, and its versions."""
    service = world.service(tmp_path_factory.mktemp("page") / "serving")
    port = free_port()
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def run():
        addresses = Addresses(http_port=port)
        loop.run_until_complete(
            serve(lambda: service, addresses, on_ready=lambda _: ready.set(), stop=stop)
        )

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{port}/", service.versions
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


@pytest.fixture
def window(tmp_path):
    window = browser.Browser(str(tmp_path / "chromium"))
    yield window
    window.close()


RANKED = "[...document.querySelectorAll('#ranked li[data-item]')].map((e) => e.dataset.item)"
TAKEN = "[...document.querySelectorAll('#taken li')].map((e) => e.dataset.item)"
QUIET = "document.getElementById('busy').textContent === ''"


def ranked(window):
    window.until(f"{QUIET} && {RANKED}.length > 0")
    return window.run(RANKED)


def test_a_history_by_clicks_ranks_excludes_filters_and_sees_a_new_catalogue(shop, window):
    address, versions = shop
    window.open(address)
    nobody = ranked(window)
    window.click("document.getElementById('words')")
    window.type("oak la")
    window.until("document.querySelectorAll('#found li').length > 1")
    window.click("document.querySelector('#found li .pick')")
    window.until(f"{TAKEN}.length === 1")
    first = ranked(window)
    assert first != nobody
    assert window.run(TAKEN)[0] not in first
    # By keyboard: the best item's own button takes it.
    window.run("document.querySelector('#ranked li .pick').focus()")
    window.press("Enter", 13)
    window.until(f"{TAKEN}.length === 2")
    second = ranked(window)
    assert first[0] not in second
    window.click("document.querySelector('#ranked li .small')")
    window.until("!document.getElementById('excluded-box').hidden")
    third = ranked(window)
    assert second[0] not in third
    window.click("document.querySelector('#excluded li .pick')")
    window.until("document.getElementById('excluded-box').hidden")
    assert ranked(window) == second
    window.run("document.querySelector('#column').value = 'colour'")
    window.run("document.querySelector('#column').dispatchEvent(new Event('change'))")
    window.run("document.querySelector('#value').value = 'red'")
    window.run("document.querySelector('#value').dispatchEvent(new Event('change'))")
    window.until(f"{QUIET} && {RANKED}.every((raw) => Number(raw.slice(1)) % 2 === 0)")
    assert window.run("document.querySelectorAll('#tree svg path').length") > 0
    assert "removed by the filter" in window.run("document.querySelector('#tree').textContent")
    red = window.run(RANKED)
    versions.change(Change(withdraw=[red[0]]))
    window.until(f"!{RANKED}.includes('{red[0]}')")
    assert "catalogue 2.0" in window.run("document.getElementById('versions').textContent")
    assert window.errors == []


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1200, True)])
def test_nothing_is_wider_than_the_window_and_titles_stay_text(shop, tmp_path, width, dark):
    address, _ = shop
    window = browser.Browser(str(tmp_path / "chromium"), width, 800, dark=dark)
    try:
        window.open(address)
        ranked(window)
        assert window.run("document.documentElement.scrollWidth") <= width
        ground = window.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark
    finally:
        window.close()
