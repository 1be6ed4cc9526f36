"""The OpenAPI page in a real browser."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.e2e.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.tools]


def test_documentation_page_runs_its_own_example(
    first_run: Run, require_tool: Callable[[str], str]
) -> None:
    """Without a network, "Try it out" and "Execute" on the example answer 200 with labels."""
    chromium = require_tool("chromium")
    foreign: list[str] = []
    url = first_run.server.http_url
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.on("request", lambda r: None if r.url.startswith(url) else foreign.append(r.url))
        page.goto(f"{url}/docs")
        route = page.locator(".opblock-post").first
        route.locator(".opblock-summary").click()
        route.get_by_role("button", name="Try it out").click()
        route.get_by_placeholder("model_name").fill("lenet5")
        route.get_by_role("button", name="Execute").click()
        answer = route.locator(".live-responses-table .response").first
        expect(answer.locator(".response-col_status")).to_contain_text("200", timeout=20_000)
        expect(answer).to_contain_text('"probability"')
        browser.close()
    assert [r for r in foreign if not r.startswith("data:")] == []
