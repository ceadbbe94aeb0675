"""A page in a real browser that keeps itself fresh: it stays where it is, and says when nobody answers."""

from pathlib import Path

import pytest

from tests.browser import BROWSER, a_tab
from tests.unit.test_web_site import a_group

PLACE = "[Math.round(scrollY), document.querySelector('.wide').scrollLeft]"


@pytest.mark.skipif(BROWSER is None, reason="no chromium here (Debian: apt install chromium)")
async def test_a_page_that_refreshes_keeps_its_place_and_says_when_its_worker_is_gone(tmp_path: Path) -> None:
    async with a_group(tmp_path / "tables") as group:
        group.put("a", at=0)
        url = group.apps[0].conf.canonical_url
        async with a_tab(f"{url}/", tmp_path / "profile") as tab:
            await tab.until("document.readyState == 'complete' && !!document.querySelector('.wide')")
            count = "document.querySelector('main').textContent.match(/positions\\s+(\\d+)/)[1]"
            assert await tab.evaluate(count) == "1"
            assert await tab.evaluate("document.querySelector('#stale').hidden") is True
            await tab.evaluate("scrollTo(0, 150); document.querySelector('.wide').scrollLeft = 60")
            before = await tab.evaluate(PLACE)
            assert min(before) > 0

            group.task(0).store.apply({"positions": {b"b": b"1"}}, {"positions": 6})
            await tab.until(f"{count} == '2'")
            assert await tab.evaluate(PLACE) == before

            group.apps[0].not_ready = None
            await tab.until("!document.querySelector('#stale').hidden")
            assert await tab.evaluate(count) == "2", "what a worker in trouble answers is no page"
            group.apps[0].not_ready = list
            await tab.until("document.querySelector('#stale').hidden")

            await group.runners[0].cleanup()
            await tab.until("!document.querySelector('#stale').hidden")
            assert await tab.evaluate(count) == "2"
            assert await tab.evaluate("document.querySelector('#stale').checkVisibility()") is True
