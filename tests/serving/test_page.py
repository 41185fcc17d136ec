"""The page in a real browser, whose microphone plays a recording; skipped without Chromium."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_run
from loopback_service import serving

from mrl_jax.serving.config import ServeConfig

sync_api = pytest.importorskip("playwright.sync_api")
sync_api.expect.set_options(timeout=30_000)  # The machine may be busy.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def url(index):
    config = ServeConfig(warm_seconds=1.0, warm_tokens=16, max_seconds=20.0, batch_size=4)
    with serving(index, config, warm=True) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    clip = np.tile(tiny_run.clip_of((1, 3), 5), 4)
    soundfile.write(spoken, clip, tiny_run.RATE, "PCM_16")
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={spoken}", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=flags, chromium_sandbox=False
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    context = browser.new_context(locale="en-GB", viewport={"width": 390, "height": 844})
    page = context.new_page()
    errors: list[str] = []
    outside: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    # A browser writes a line about every answer of 400, which is none of the page's errors.
    mistake = lambda line: line.type == "error" and "status of 400" not in line.text  # noqa: E731
    page.on("console", lambda line: errors.append(line.text) if mistake(line) else None)
    page.on(
        "request", lambda r: None if r.url.startswith((url, "blob:")) else outside.append(r.url)
    )
    page.goto(url)
    sync_api.expect(page.locator("#documents")).to_have_text("26 documents")
    yield page
    assert errors == []
    assert outside == []
    context.close()


def hits(page, count: int = 10):
    sync_api.expect(page.locator("#hits li")).to_have_count(count)
    return page.locator("#hits li")


def test_speaking_finds_documents(page, index):
    page.evaluate(
        "const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => { window.clip = blob; return make(blob); }; 0"
    )
    button = page.get_by_role("button", name="Press and speak")
    button.click()
    sync_api.expect(page.locator("#status")).to_have_text("Listening…")
    page.wait_for_timeout(1200)
    with page.expect_response("**/search") as answer:
        page.get_by_role("button", name="Stop and search").click()
    found = answer.value.json()["hits"]
    shown = hits(page).locator(".text").all_text_contents()
    assert shown == [(hit["title"] or "") + hit["text"] + hit["id"] for hit in found]
    assert "10 of them in" in page.locator("#status").inner_text()
    # The recording can be played again, and is what was searched for.
    page.wait_for_function("document.getElementById('heard').readyState")
    assert 0.8 < page.evaluate("document.getElementById('heard').duration") < 5
    content = page.evaluate(
        "window.clip.arrayBuffer().then(buffer => Array.from(new Uint8Array(buffer)))"
    )
    clip, rate = soundfile.read(io.BytesIO(bytes(content)), dtype="float32")
    scores = {hit.id: hit.score for hit in index.search(audio=[(clip, rate)], k=len(index))[0]}
    expected = [scores[hit["id"]] for hit in found]
    assert [hit["score"] for hit in found] == pytest.approx(expected, abs=1e-4)
    assert min(expected) == pytest.approx(sorted(scores.values())[-10], abs=1e-4)


def test_by_keyboard_and_in_french(page):
    page.get_by_role("button", name="Français").click()
    assert page.locator("html").get_attribute("lang") == "fr"
    assert page.title() == "mrl_jax"
    page.get_by_placeholder("Ou écrivez une question").focus()
    page.keyboard.type("di di")
    page.keyboard.press("Enter")
    rows = hits(page)
    assert "entre eux" in page.locator("#status").inner_text()
    marked = page.locator("#hits mark").all_inner_texts()
    assert all(text in ("ba ce.", "Fo gu!", "di di") for text in marked)
    assert rows.first.locator("meter").get_attribute("aria-label") == "score"
    page.reload()
    sync_api.expect(page.get_by_role("button", name="English")).to_be_visible()


def test_tasks_are_named_in_the_language_of_the_page(page):
    page.get_by_role("button", name="Français").click()
    assert page.locator("#task option").all_inner_texts() == ["aucune", "find"]
    page.locator("#task").select_option("find")
    page.locator("#text").fill("gu ba")
    with page.expect_response("**/search") as answer:
        page.locator("#text").press("Enter")
    assert answer.value.status == 200


def test_a_button_pressed_twice_opens_one_microphone(page):
    page.evaluate(
        "window.opened = 0; const media = navigator.mediaDevices;"
        "const open = media.getUserMedia.bind(media);"
        "media.getUserMedia = (wish) => { window.opened++; return open(wish); };"
        "const button = document.getElementById('record'); button.click(); button.click();"
    )
    sync_api.expect(page.locator("#status")).to_have_text("Listening…")
    assert page.evaluate("window.opened") == 1
    page.wait_for_timeout(1200)
    page.get_by_role("button", name="Stop and search").click()
    hits(page)


def test_a_page_whose_server_was_away_asks_it_again(browser, url):
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.route("**/info", lambda route: route.fulfill(status=503, body="Service Unavailable"))
    page.goto(url)
    sync_api.expect(page.locator("#status")).to_have_text("The server cannot be reached. (503)")
    page.unroute("**/info")
    page.locator("#text").fill("gu ba")
    page.get_by_role("button", name="Search").click()
    hits(page)
    context.close()


def test_the_slider_shortens_the_vectors(page):
    page.locator("#text").fill("gu ba")
    page.get_by_role("button", name="Search").click()
    hits(page)
    assert "128 bytes a document" in page.locator("#status").inner_text()
    before = page.locator("#hits .score").all_inner_texts()
    slider = page.locator("#dim")
    slider.focus()
    page.keyboard.press("Home")
    sync_api.expect(page.locator("#dim-value")).to_have_text("8")
    sync_api.expect(page.locator("#status")).to_contain_text("32 bytes a document")
    assert page.locator("#hits .score").all_inner_texts() != before


def test_a_file_and_one_that_is_no_recording(page, tmp_path: Path):
    good, bad = tmp_path / "q.wav", tmp_path / "page.mp3"
    soundfile.write(good, tiny_run.clip_of((2, 4), 6), tiny_run.RATE)
    bad.write_text("<!doctype html><html></html>")
    page.locator("#file").set_input_files(good)
    hits(page)
    response_errors = []
    page.on("response", lambda r: response_errors.append(r.status) if r.status >= 400 else None)
    page.locator("#file").set_input_files(bad)
    sync_api.expect(page.locator("#status")).to_contain_text("cannot be decoded as audio")
    sync_api.expect(page.locator("#hits li")).to_have_count(0)
    assert response_errors == [400]
