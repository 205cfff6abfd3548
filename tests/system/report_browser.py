#!/usr/bin/env python3
"""Looks at the page of reports in headless Chromium: static and live, one run and three, light and dark,
at 400 and 1600 pixels; clicks, zooms, and follows a training.

usage: report_browser.py LOCKSTEP SCREENSHOTS

The screenshots of what was looked at stay in the folder SCREENSHOTS. Skipped without Chromium, its
driver or Selenium (apt-get install chromium chromium-driver python3-selenium).
"""

import base64
import pathlib
import shutil
import sys
import tempfile
import time

from report_runs import Workshop

SKIPPED = 77
chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
try:
    from selenium import webdriver
    from selenium.webdriver import ActionChains
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)
if not chromium or not driver:
    print("skipped: no chromium, or no chromedriver")
    sys.exit(SKIPPED)

DRAWN = "return graphs().length > 0 && graphs().every(g => g.canvas_.width > 0)"
RANGES = "return graphs().map(g => g.xAxisRange().map(Math.round).join(' '))"
# How many different colours the curves of a chart have drawn with.
COLOURS = """
const canvas = document.querySelector(arguments[0] + ' .plot canvas');
const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
const seen = new Set();
for (let k = 0; k < pixels.length; k += 4) if (pixels[k + 3] === 255) seen.add(pixels.slice(k, k + 3).join());
return seen.size;
"""


def open_browser():
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(service=Service(driver), options=options)


def set_screen(browser, width, scheme):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def wait_for(browser, script, seconds=60):
    WebDriverWait(browser, seconds).until(lambda b: b.execute_script(script))


def check_looks(browser, url, name, runs, pictures):
    for width in (1600, 400):
        for scheme in ("light", "dark"):
            set_screen(browser, width, scheme)
            browser.get(url)
            wait_for(browser, DRAWN)
            box = browser.execute_script("const d = document.documentElement; return [d.scrollWidth, d.scrollHeight]")
            assert box[0] <= width, f"{name}: {box[0]} pixels wide on a screen of {width}"
            background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            bright = sum(map(int, background[4:-1].split(","))) > 3 * 128
            assert bright == (scheme == "light"), background
            shown = [title.text for title in browser.find_elements(By.CSS_SELECTOR, "#charts h2") if title.text]
            assert [title.split("\n")[0].split(" ")[0] for title in shown[:3]] == ["Loss", "Gradient", "Clip"], shown
            assert browser.execute_script(COLOURS, "#chart_loss") >= max(2, runs), name
            assert browser.execute_script("return getComputedStyle(document.getElementById('runs')).display") == ("none" if runs == 1 else "flex")
            picture = browser.execute_cdp_cmd("Page.captureScreenshot", {
                "captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": width, "height": box[1], "scale": 1}})
            (pictures / f"{name}-{width}-{scheme}.png").write_bytes(base64.b64decode(picture["data"]))
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors, errors


def text_of(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector).text


def drag(browser, selector, begin, by):
    plot = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)
    ActionChains(browser).move_to_element_with_offset(plot, begin, 0).click_and_hold().move_by_offset(by, 3).release().perform()


def check_handling(browser, url):
    set_screen(browser, 1600, "light")
    browser.get(url)
    wait_for(browser, DRAWN)
    whole = browser.execute_script(RANGES)
    drag(browser, "#chart_loss .plot", -200, 300)
    zoomed = browser.execute_script(RANGES)
    assert len(set(zoomed)) == 1 and zoomed[0] not in whole, (whole, zoomed)  # all charts together
    plot = browser.find_element(By.CSS_SELECTOR, "#chart_loss .plot")
    ActionChains(browser).move_to_element(plot).perform()
    step = browser.execute_script("return Math.round(charts[0].graph.toDataXCoord(arguments[0].clientWidth / 2))", plot)
    values = text_of(browser, "#chart_loss .values")
    assert f"step {step}" in values and "train" in values, values
    browser.find_element(By.ID, "reset").click()
    assert browser.execute_script(RANGES) == whole
    button = browser.find_element(By.CSS_SELECTOR, "#chart_loss button")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert browser.execute_script("return charts[0].graph.getOption('logscale')") is True
    browser.execute_script("const s = document.getElementById('smoothing'); s.value = 0.9; s.dispatchEvent(new Event('input'))")
    roughness = "const ys = charts[0].lines.filter(l => l.label.endsWith(arguments[0]))[0].ys; return Math.max(...ys.slice(1).map((y, k) => Math.abs(y - ys[k])))"
    assert browser.execute_script(roughness, "train") < 0.6 * browser.execute_script(roughness, "(raw)")
    browser.execute_script("const a = document.getElementById('axis'); a.value = 'tokens'; a.dispatchEvent(new Event('change'))")
    assert browser.execute_script("return charts[0].graph.xAxisExtremes()[1]") == browser.execute_script("return state.data.runs[0].tokens")
    browser.find_element(By.CSS_SELECTOR, "#runs input").click()
    assert browser.execute_script("return charts[0].lines.some(line => line.label.startsWith('a:'))") is False
    rows = browser.find_elements(By.CSS_SELECTOR, "#unapplied tbody tr")
    assert "overflow" in rows[0].text and "rank 0, block.1" in rows[0].text
    assert not browser.get_log("browser")


def check_long_run(browser, shop):
    """A run of a million steps: its page opens in two seconds on a machine that has nothing else to do."""
    (shop.directory / "long").mkdir()
    with open(shop.directory / "long" / "metrics.jsonl", "w") as file:
        for step in range(1, 1000001):
            file.write(f'{{"event":"step","step":{step},"loss":{99 if step == 654321 else 2 + step % 89 / 100},'
                       f'"grad_norm":{1 + step % 97 / 50},"learning_rate":0.001,"tokens":64,"step_seconds":0.5}}\n')
    begin = time.monotonic()
    shop.run("report", "long", "--output", "long.html")
    written = time.monotonic()
    browser.get((shop.directory / "long.html").as_uri())
    wait_for(browser, DRAWN)
    print(f"a million steps: report {written - begin:.2f} s, open {time.monotonic() - written:.2f} s")
    assert time.monotonic() - written < 6
    assert browser.execute_script("return Math.max(...charts[0].lines[0].ys)") == 99, "the spike was lost"


def check_following(browser, shop, pictures):
    (shop.directory / "live").mkdir()
    watching, url = shop.watch("live")
    training = None
    try:
        browser.get(url)
        wait_for(browser, "return !document.getElementById('empty').hidden")
        training = shop.start(*shop.settings("live", "train.steps=100000"), stderr=-3)
        wait_for(browser, "return (state.data?.runs[0].steps ?? 0) >= 60 && graphs().length > 0")
        drag(browser, "#chart_loss .plot", -200, 300)
        zoomed = browser.execute_script("return state.window")
        before = browser.execute_script("return state.data.runs[0].steps")
        wait_for(browser, f"return state.data.runs[0].steps > {before}")
        assert browser.execute_script("return state.window") == zoomed, "the zoom was lost as the run went further"
        assert "of 100000" in text_of(browser, "#status")
        browser.find_element(By.ID, "reset").click()
        wait_for(browser, "return charts[0].graph.xAxisExtremes()[0] <= 1")
        training.terminate()
        training.wait(timeout=60)
        check_looks(browser, url, "live-one", 1, pictures)
        watching.kill()
        wait_for(browser, "return document.getElementById('status').className === 'lost'")
        browser.get_log("browser")  # it complains of the server that is gone
    finally:
        for process in (watching, training):
            if process is not None:
                process.kill()
                process.wait()


def main():
    lockstep, pictures = sys.argv[1], pathlib.Path(sys.argv[2])
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        shop = Workshop(lockstep, directory)
        shop.train("a")
        shop.train("b", "optimizer.learning_rate=0.01")
        shop.train("c", "run.seed=8")
        shop.run("report", "a", "--output", "one.html")
        shop.run("report", "a", "b", "c", "--output", "three.html")
        browser = open_browser()
        try:
            one, three = ((shop.directory / name).as_uri() for name in ("one.html", "three.html"))
            check_looks(browser, one, "one", 1, pictures)
            check_looks(browser, three, "three", 3, pictures)
            check_handling(browser, three)
            check_long_run(browser, shop)
            check_following(browser, shop, pictures)
            watching, url = shop.watch("a", "b", "c")
            try:
                check_looks(browser, url, "live-three", 3, pictures)
            finally:
                watching.kill()
                watching.wait()
        finally:
            browser.quit()
    print(f"report_browser: all passed; pictures in {pictures}")


if __name__ == "__main__":
    main()
