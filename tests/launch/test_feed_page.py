"""A feed's page in a real browser: a click is an event, and the feed changes."""

import pytest

from launch.wiring import feed_server
from tests.launch.feed_world import Served, prepared_job, untrained
from tests.serving import browser

pytest.importorskip("websocket", reason="websocket-client is not installed")
pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with untrained():
        job = prepared_job(tmp_path_factory.mktemp("feed_page"))
        served = Served(feed_server.services_of(job, feed_server.Asked(deadline_s=60.0)))
    yield served
    served.close()


FEED = "[...document.querySelectorAll('#feed li[data-item]')].map((e) => e.dataset.item)"
QUIET = "document.getElementById('busy').textContent === ''"
EVENTS = "document.querySelectorAll('#events li').length"
ANSWER = "Number(document.getElementById('feed').dataset.answer)"


def shown(window):
    window.until(f"{QUIET} && {FEED}.length > 0")
    return window.run(FEED)


def test_clicks_are_events_weights_slide_and_parts_that_fail_are_named(shop, tmp_path):
    window = browser.Browser(str(tmp_path / "chromium"))
    try:
        window.open(f"http://127.0.0.1:{shop.port}/#ann")
        first = shown(window)
        assert window.run("document.getElementById('user').value") == "ann"
        assert window.run(EVENTS) == 0
        reasons = window.run("document.querySelector('#feed .why').textContent")
        assert "named by" in reasons
        assert "score" in reasons
        window.click("document.querySelector('#feed .pick')")
        window.until(f"{EVENTS} === 1 && {QUIET} && {FEED}.join() !== '{','.join(first)}'")
        # By keyboard: the first item's button for the last action.
        last = "[...document.querySelectorAll('#feed li:first-child [data-action=transaction]')][0]"
        bought = window.run(FEED)[0]
        window.run(f"{last}.focus()")
        window.press("Enter", 13)
        window.until(f"{EVENTS} === 2 && {QUIET} && !{FEED}.includes('{bought}')")
        # An event of another client appears by itself.
        found = shop.services.shop.raw_item_ids[5]
        event = {"user": "ann", "action": "addtocart", "item": found}
        shop.ask("/v1/events", {"events": [event]})
        window.until(f"{EVENTS} === 3")
        before = window.run(ANSWER)
        slide = "document.querySelector('#weights input[data-action=view]')"
        window.run(f"{slide}.focus()")
        window.press("End", 35)
        window.until(f"{QUIET} && {ANSWER} > {before}")
        assert float(window.run(f"{slide}.value")) == float(window.run(f"{slide}.max"))
        window.run("document.querySelector('#feed [data-action=block]').click()")
        window.until("document.getElementById('relations').textContent.startsWith('blocks')")
        ranker = shop.services.pipeline._stages["scorers"][0]
        works, ranker._ranker = ranker._ranker, None
        window.click("document.getElementById('reset')")
        window.until("!document.getElementById('degraded').hidden")
        assert "Ranker" in window.run("document.getElementById('degraded').textContent")
        ranker._ranker = works
        window.click("document.getElementById('reset')")
        window.until("document.getElementById('degraded').hidden")
        assert window.errors == []
    finally:
        window.close()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1200, True)])
def test_nothing_is_wider_than_the_window(shop, tmp_path, width, dark):
    window = browser.Browser(str(tmp_path / "chromium"), width, 800, dark=dark)
    try:
        window.open(f"http://127.0.0.1:{shop.port}/#u000004")
        shown(window)
        window.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert window.run("document.documentElement.scrollWidth") <= width
        ground = window.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == dark
        window.picture(str(tmp_path / "page.png"), whole=False)
    finally:
        window.close()
