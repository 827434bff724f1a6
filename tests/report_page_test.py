"""A report's page in a real browser: what a reader sees, wide and on a phone, light and dark."""

import json
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from harmony_jax.reporting import live, report
from harmony_jax.training import video
from tests import commands
from tests.reports import record, write_run

BROWSER = shutil.which('chromium') or shutil.which('chromium-browser')
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
  not (BROWSER and DRIVER), reason='no chromium and chromedriver here'
)
FLAGS = 'headless no-sandbox disable-gpu disable-quic no-first-run disable-sync'.split()
FLAGS += ['disable-background-networking', 'disable-component-update']

# Every element with text of its own: [what it is, its text, its colour, its background's colour,
# size of a letter on the screen in pixels]. SVG text has its fill, and is scaled with the figure.
TEXTS = """
const parse = text => (text.match(/[\\d.]+/g) || []).map(Number), found = [];
for (const element of document.querySelectorAll('body *')) {
  const nodes = [...element.childNodes].filter(node => node.nodeType === 3);
  const own = nodes.map(node => node.nodeValue).join('').trim();
  if (!own || !element.getClientRects().length || element.tagName === 'CAPTION') continue;
  const style = getComputedStyle(element), svg = element.ownerSVGElement;
  let at = element, back = [0, 0, 0, 0];
  while (at && back.length > 3 && back[3] === 0) {
    back = parse(getComputedStyle(at).backgroundColor); at = at.parentElement;
  }
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  found.push([svg ? 'figure' : element.tagName, own, parse(svg ? style.fill : style.color), back,
              parseFloat(style.fontSize) * scale]);
}
return found;
"""
OUTSIDE = """return [...document.querySelectorAll("body *")].filter(each => !each.closest(".scroll")
  && !each.ownerSVGElement && each.getBoundingClientRect().right > innerWidth + 0.5)
  .map(each => each.outerHTML.slice(0, 80))"""
FIGURES = """return [...document.querySelectorAll("figure svg")].map(svg => [
  svg.getBoundingClientRect().width, svg.getBoundingClientRect().height,
  svg.querySelectorAll("path").length, !!svg.getAttribute("aria-label")])"""
HEADERS = """return [...document.querySelectorAll("table")].every(table => table.caption &&
  table.querySelectorAll("thead th[scope=col]").length === table.rows[0].cells.length &&
  [...table.tBodies[0].rows].every(row => row.cells[0].tagName === "TH"))"""
LINKS = """return [...document.querySelectorAll("nav a")].map(a => [a.textContent,
  document.querySelector(a.getAttribute("href"))?.textContent])"""


@pytest.fixture(scope='module')
def started(tmp_path_factory):
  """A browser."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  for flag in (*FLAGS, f'user-data-dir={tmp_path_factory.mktemp("profile")}'):
    options.add_argument(f'--{flag}')
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
  try:
    browser.set_page_load_timeout(30)
    yield browser
  finally:
    browser.quit()


@pytest.fixture(scope='module')
def page(tmp_path_factory, started):
  """(a browser that shows a report with every kind of part, the report)."""
  folder = tmp_path_factory.mktemp('report')
  records = [
    record(f'dreamerv3-{rule}-cpu', task, seed, (-20.0, 5.0, 10.0 + seed))
    for rule in ('harmony', 'none')
    for task in ('Pong', 'Boxing')
    for seed in range(2)
  ]
  rates = {'suite': 'metaworld', 'task': 'push', 'score': 'success'}
  records += [record(seed=seed, values=(0.1, 0.4 + seed / 10), **rates) for seed in range(2)]
  name = 'a_task_with_a_very_long_name_that_does_not_end_so_soon'
  records.append(record(task=name, suite='dmc', complete=False, steps=9000))
  made = report.make(records, ['runs/x is damaged'], {'push': {'random': 0.05}})
  html = report.render(made, 'today', 'python -m experiments.report ' + 'runs/x ' * 30)
  (folder / 'index.html').write_text(html, encoding='utf-8')
  started.get((folder / 'index.html').as_uri())
  return started, made


def show(browser, width, scheme):
  """Takes a screen of that width with that colour scheme."""
  media = {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]}
  screen = {'width': width, 'height': 800, 'deviceScaleFactor': 1, 'mobile': width < 500}
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', media)
  browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', screen)


def test_it_asks_for_nothing_else_and_all_of_it_is_there(page):
  browser, made = page
  requests = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
  sent = [each['params'] for each in requests if each['method'] == 'Network.requestWillBeSent']
  own = ('data:', 'chrome:', 'chrome-untrusted:')  # within the page; the browser's own first page
  urls = [each['request']['url'] for each in sent]
  assert [url for url in urls if not url.startswith(own)] == [browser.current_url]
  assert browser.get_log('browser') == []
  show(browser, 1280, 'light')
  found = browser.execute_script(FIGURES)
  assert len(found) == sum(len(figure.panels) for figure in made.figures()) > 15
  assert all(w > 200 and h > 40 and paths > 3 and alt for w, h, paths, alt in found)
  assert browser.execute_script(HEADERS)
  links = browser.execute_script(LINKS)
  assert len(links) > 8 and all(text == target for text, target in links)


@pytest.mark.parametrize('width', [360, 768, 1280])
def test_nothing_sticks_out_at_the_side(page, width):
  browser, _ = page
  show(browser, width, 'light')
  sizes = browser.execute_script('return [innerWidth, document.documentElement.scrollWidth]')
  assert sizes[1] <= sizes[0] == width and browser.execute_script(OUTSIDE) == []


def luminance(color):
  parts = [value / 255 for value in color[:3]]
  linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(color, background):
  """WCAG's ratio: 21 is black on white; 4.5 is asked for."""
  lighter, darker = sorted((luminance(color), luminance(background)), reverse=True)
  return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [360, 1280])
def test_text_can_be_read(page, width, scheme):
  browser, _ = page
  show(browser, width, scheme)
  assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
  texts = browser.execute_script(TEXTS)
  kinds = [kind for kind, *_ in texts]
  assert kinds.count('figure') > 100 and kinds.count('P') > 10 and kinds.count('TD') > 50
  body = texts[0][3]
  assert (luminance(body) > 0.8) if scheme == 'light' else (luminance(body) < 0.05)
  for kind, text, color, background, size in texts:
    assert contrast(color, background) >= 4.5, (kind, text, color, background)
    assert size >= (8 if kind == 'figure' else 11), (kind, text, size)


# --------------------------------------------------------------------------------------------------
# the page that follows its runs


def shows(browser, text, where='body', seconds=60):
  """Wait until there is an element with a text; return it all."""
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    found = browser.execute_script(
      'return document.querySelector(arguments[0])?.textContent', where
    )
    if found is not None and text in found:
      return found
    time.sleep(0.05)
  raise AssertionError(f'{text!r} is not in {found!r}')


@pytest.fixture
def port():
  """One that is free."""
  with socket.socket() as tried:
    tried.bind((live.HOST, 0))
    return tried.getsockname()[1]


# Both look more often than for people: the command, and the page.
WATCH = """
import runpy
from harmony_jax.reporting import live
live.LOOKS = live.SHARE = 0.1
runpy.run_module('experiments.report', run_name='__main__', alter_sys=True)
"""
HURRY = 'const later = setTimeout; setTimeout = (call, time) => later(call, time / 10)'


def test_the_page_follows_a_run(started, port, tmp_path):
  """While it is open a run begins, writes half a line, fills it, evaluates, ends, and another one
  vanishes; the reader's place, an open table and a video that runs stay."""
  browser, runs = started, tmp_path / 'runs'
  runs.mkdir()
  watching = commands.Command('-c', WATCH, runs, '--watch', f'--port={port}')
  try:
    end = time.monotonic() + 60
    while not (watching.text() or time.monotonic() > end):
      time.sleep(0.1)
    address = f'http://{live.HOST}:{port}/'
    assert address in watching.text()
    browser.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', {'source': HURRY})
    browser.get(address)
    shows(browser, 'none of these holds a run that can be read', '#live')
    run = write_run(runs / 'a', suite='dmc', complete=False)
    video.save_video(
      run / 'videos' / 'open_loop_image_00000050', np.zeros((8, 32, 32, 3), np.uint8)
    )
    shows(browser, 'step 100 of 100', 'header')
    assert shows(browser, 'Follows the runs', '#live')
    shows(browser, '', 'video')
    show(browser, 600, 'light')
    browser.execute_script(
      'const at = document.querySelector("video"); at.mark = 1; at.play();'
      'document.querySelector("details").open = true;'
      'document.querySelector("#runs").scrollIntoView({behavior: "instant"})'
    )
    place = 'return document.querySelector("#runs").getBoundingClientRect().top'
    before = browser.execute_script(place)
    with open(run / 'scores.jsonl', 'a', encoding='utf-8') as file:
      file.write('{"step": 150, "frame": 600, "eval_me')
    write_run(runs / 'b', seed=1, suite='dmc', complete=False, first=30.0)
    shows(browser, 'seed 1: step 100 of 100', 'header')  # more above the reader's place
    assert browser.execute_script(place) == pytest.approx(before, abs=2)
    (run / '.complete').write_text('{}')
    shows(browser, '2.00', 'table')
    shutil.rmtree(runs / 'b')
    with open(run / 'config.json', 'a', encoding='utf-8') as file:
      file.write('{')
    shows(browser, 'none of these holds a run', '#live')  # and the page that there was
    assert '2.00' in shows(browser, 'seed 0', 'main')
    kept = 'const at = document.querySelector("video"); return [at.mark, at.paused, at.readyState]'
    mark, paused, ready = browser.execute_script(kept)
    while ready < 2 and time.monotonic() < end:  # it is still being loaded
      time.sleep(0.1)
      mark, paused, ready = browser.execute_script(kept)
    assert mark == 1 and not paused and ready > 1
    assert browser.execute_script('return document.querySelector("details").open')
    assert [each for each in browser.get_log('browser') if each['level'] == 'SEVERE'] == []
    second = commands.run('report', runs, '--watch', f'--port={port}')
    assert second.returncode == 2 and 'take --port=' in second.stderr.splitlines()[-1]
    figure = urllib.request.urlopen(f'{address}figures/dmc-curves-frames.png').read()
    assert figure.startswith(b'\x89PNG')
    other = urllib.request.Request(address, headers={'Host': 'elsewhere.example'})
    with pytest.raises(urllib.error.HTTPError, match='403'):
      urllib.request.urlopen(other)
    watching.send_signal(signal.SIGINT)
    ended = watching.end(timeout=30)
    assert (ended.returncode, ended.stderr) == (0, '')
    shows(browser, 'has ended', '#live')
  finally:
    watching.kill()
