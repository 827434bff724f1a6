"""A report as a page that follows its runs: served to this machine alone, made again as runs write.

    with Server(Live(make, stamp), port=8600) as server:
      server.serve_forever()

Nothing is written to disk, and nothing is made while nobody looks. Making the page takes at most a
fifth of one core's time.
"""

import contextlib
import html
import http.server
import pathlib
import re
import socket
import tempfile
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple

from harmony_jax.errors import UserError, one_line
from harmony_jax.reporting import figures
from harmony_jax.reporting.report import Report

HOST, LOOKS, SHARE = '127.0.0.1', 2.0, 5.0  # seconds between two looks; seconds between, per second
_PATIENCE = 30.0  # seconds after which nobody looks any more
_KINDS = {  # other files are pictures
  '': 'text/plain; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.mp4': 'video/mp4',
  '.webm': 'video/webm',
}
_POLICY = (
  "default-src 'none'; script-src 'self'; connect-src 'self'; media-src 'self'; "
  "img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


class Page(NamedTuple):
  """One state of the page: its name, its HTML, what it was made of, what went wrong since."""

  state: str = ''
  html: str = ''
  report: Report | None = None
  made: str = ''
  error: str = ''

  def note(self) -> str:
    """Return what a browser asks for at every look: state, time and error, a line each."""
    return '\n'.join([self.state, self.made, self.error])


class Live:
  """Keeps the newest page.

  Args:
    make: called with the name of a state and the report before it; returns (report, HTML).
    stamp: returns something that differs after every change of a run.
  """

  def __init__(self, make: Callable[[str, Report | None], tuple[Report, str]], stamp: Callable):
    self._make, self._stamp, self._last = make, stamp, None
    self._looked, self._begun = time.monotonic(), f'{time.time_ns():x}'
    self._number, self._awake, self._closed = 0, threading.Event(), False
    self.drawing = threading.Lock()  # Matplotlib's settings are the process's
    self.page = Page()

  def look(self) -> Page:
    """Return the page as it is; it is made again from now on for a while."""
    self._looked = time.monotonic()
    self._awake.set()
    return self.page

  def refresh(self) -> None:
    """Make the page again if a run has changed; what fails is told on the page that there was."""
    try:
      stamp = self._stamp()
      if stamp == self._last:
        return
      self._number += 1
      state = f'{self._begun}-{self._number}'
      with self.drawing:
        report, text = self._make(state, self.page.report)
      self.page, self._last = Page(state, text, report, time.strftime('%X')), stamp
    except Exception as error:  # tried again at the next look
      known = isinstance(error, UserError)
      told = one_line(str(error) if known else f'{type(error).__name__}: {error}')
      if told != self.page.error and not known:
        traceback.print_exc()
      self.page = self.page._replace(error=told)

  def follow(self) -> None:
    """Refresh the page again and again, while somebody looks at it, until `close`."""
    while not self._closed:
      if time.monotonic() - self._looked > _PATIENCE:
        self._awake.clear()
        self._awake.wait()
      begun = time.monotonic()
      self.refresh()
      time.sleep(max(LOOKS, SHARE * (time.monotonic() - begun)))

  def close(self) -> None:
    """End `follow` at its next turn."""
    self._closed = True
    self._awake.set()

  def file(self, name: str) -> bytes | None:
    """Return a file beside the page: a figure, drawn when it is asked for, or one of a run."""
    report = self.page.report
    if name == 'live.js':
      return resources.files('harmony_jax.reporting').joinpath('templates', name).read_bytes()
    if not report:
      return None
    folder, _, rest = name.partition('/')
    stem, _, kind = rest.rpartition('.')
    if folder == 'media':
      for each in report.media():
        if each.name == name:
          with contextlib.suppress(OSError):
            return each.path.read_bytes()
    for figure in report.figures() if folder == 'figures' and kind in ('png', 'svg') else ():
      if figure.name == stem:
        with self.drawing, tempfile.TemporaryDirectory() as place:
          figures.save(figure, pathlib.Path(place))
          return pathlib.Path(place, rest).read_bytes()
    return None


class Server(http.server.ThreadingHTTPServer):
  """Serves a `Live` page at http://127.0.0.1:PORT/.

  Raises:
    UserError: the port is taken; names the next free one.
  """

  daemon_threads = True

  def __init__(self, live: Live, port: int):
    self.live = live
    try:
      super().__init__((HOST, port), _Handler)
    except OSError as error:
      free = next(filter(_is_free, range(port + 1, min(port + 100, 2**16))), None)
      instead = f': take --port={free}' if free else ''
      told = f'port {port} cannot be used ({error.strerror}){instead}'
      raise UserError(told) from None

  @property
  def address(self) -> str:
    """Where the page is."""
    return f'http://{HOST}:{self.server_address[1]}/'

  def serve(self) -> None:
    """Serve until KeyboardInterrupt, which is no error."""
    threading.Thread(target=self.live.follow, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
      self.serve_forever(poll_interval=0.2)
    self.live.close()

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Say nothing: a browser that goes away is no error."""


def _nothing(page):
  """The page before there is a report, which turns into it."""
  said = html.escape(page.error or 'reads the runs …')
  return (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Nothing to show yet</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"></head>'
    f'<body><p id="live" role="status">{said}</p><script src="live.js"></script></body></html>'
  )


def _is_free(port):
  with contextlib.closing(socket.socket()) as tried:
    try:
      tried.bind((HOST, port))
    except OSError:
      return False
  return True


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: Server

  def do_GET(self):
    # A page of the network whose name leads here is not to read what only this machine may see.
    host = urllib.parse.urlsplit(f'//{self.headers.get("Host", "")}').hostname
    name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip('/')
    if host not in (HOST, 'localhost'):
      self._answer(403, b'only this machine may look')
    elif name in ('', 'index.html'):
      page = self.server.live.look()
      self._answer(200, (page.html or _nothing(page)).encode(errors='backslashreplace'), '.html')
    elif name == 'state':
      self._answer(200, self.server.live.look().note().encode(errors='backslashreplace'))
    elif (content := self.server.live.file(name)) is not None:
      self._answer(200, content, pathlib.PurePosixPath(name).suffix)
    else:
      self._answer(404, b'not here')

  def _answer(self, code, content, kind=''):
    sizes = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
    size = len(content)
    if code == 200 and sizes and int(sizes[1]) < size:  # Safari shows no video without parts
      first, last = int(sizes[1]), min(int(sizes[2] or size), size - 1)
      code, content = 206, content[first : last + 1]
    self.send_response(code)
    if code == 206:
      self.send_header('Content-Range', f'bytes {first}-{last}/{size}')
    self.send_header('Content-Type', _KINDS.get(kind) or f'image/{kind[1:]}')
    self.send_header('Content-Length', str(len(content)))
    self.send_header('Content-Security-Policy', _POLICY)
    self.send_header('X-Content-Type-Options', 'nosniff')
    self.send_header('Accept-Ranges', 'bytes')
    self.send_header('Cache-Control', 'no-cache')
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, format, *args):
    """Say nothing of each look."""
