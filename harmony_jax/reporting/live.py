"""A report as a page that follows its runs, served to this machine alone.

    with Server(Live(make, stamp), port=8600) as server:
      server.serve()

The page is made where a browser asks for it and a run has written since: nothing is written to
disk, and nothing is made while nobody looks. That takes at most a fifth of one core's time.
"""

import contextlib
import html
import http.server
import mimetypes
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
from typing import Any

from harmony_jax.errors import UserError, one_line
from harmony_jax.reporting import figures
from harmony_jax.reporting.report import Report

HOST, LOOKS, SHARE = '127.0.0.1', 2.0, 5.0  # seconds between two looks; seconds between, per second
_POLICY = (
  "default-src 'none'; script-src 'self'; connect-src 'self'; media-src 'self'; "
  "img-src 'self' data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_NOTHING = (  # before there is a report, into which it turns
  '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Nothing to show yet</title>'
  '<meta name="viewport" content="width=device-width, initial-scale=1">'
  '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"></head>'
  '<body><p id="live" role="status">{}</p><script src="live.js"></script></body></html>'
)


class Live:
  """Keeps the newest page.

  Args:
    make: called with the name of a state of the page; returns (report, HTML).
    stamp: returns something that differs after every change of a run.
  """

  def __init__(self, make: Callable[[str], tuple[Report, str]], stamp: Callable[[], Any]):
    self._make, self._stamp, self._last, self._due = make, stamp, None, 0.0
    self._report: Report | None = None
    self._html, self._state, self._made, self._error = '', '', '', ''
    self._lock = threading.Lock()  # Matplotlib's settings are the process's

  def get(self, name: str) -> tuple[bytes, str] | None:
    """Return (content, its type) of the page or a file beside it; None where there is none.

    'state' is what a browser asks for at every look: the page's state, the time that it is of, and
    what went wrong since, a line each. A figure is drawn when it is asked for.
    """
    if name in ('', 'index.html', 'state'):
      with self._lock:
        self._refresh()
        page = self._html or _NOTHING.format(html.escape(self._error))
        state = '\n'.join([self._state, self._made, self._error])
        text, kind = (state, 'plain') if name == 'state' else (page, 'html')
      return text.encode(errors='backslashreplace'), f'text/{kind}; charset=utf-8'
    kind = mimetypes.guess_type(name)[0] or ''
    with self._lock, contextlib.suppress(OSError):
      if name == 'live.js':
        return resources.files(__package__).joinpath('templates', name).read_bytes(), kind
      for each in self._report.media() if self._report else ():
        if each.name == name:
          return each.path.read_bytes(), kind
      for each in self._report.figures() if self._report else ():
        if name in (f'figures/{each.name}.png', f'figures/{each.name}.svg'):
          with tempfile.TemporaryDirectory() as place:
            figures.save(each, pathlib.Path(place))
            return pathlib.Path(place, pathlib.PurePosixPath(name).name).read_bytes(), kind
    return None

  def _refresh(self):
    """Make the page again if a run has changed; what fails is told on the page that there was."""
    begun = time.monotonic()
    if begun < self._due:
      return
    try:
      stamp = self._stamp()
      if stamp != self._last:
        state = f'{time.time_ns():x}'
        self._report, self._html = self._make(state)
        self._last, self._state, self._made, self._error = stamp, state, time.strftime('%X'), ''
    except Exception as error:  # tried again at the next look
      known = isinstance(error, UserError)
      told = one_line(str(error) if known else f'{type(error).__name__}: {error}')
      if told != self._error and not known:
        traceback.print_exc()
      self._error = told
    self._due = time.monotonic() + max(LOOKS / 2, SHARE * (time.monotonic() - begun))


class Server(http.server.ThreadingHTTPServer):
  """Serves a `Live` page at http://127.0.0.1:PORT/.

  Raises:
    UserError: the port is taken; names a free one.
  """

  daemon_threads = True

  def __init__(self, live: Live, port: int):
    self.live, self.address = live, f'http://{HOST}:{port}/'
    try:
      super().__init__((HOST, port), _Handler)
    except OSError as error:
      with socket.create_server((HOST, 0)) as free:
        instead = free.getsockname()[1]
      told = f'port {port} cannot be used ({error.strerror}): take --port={instead}'
      raise UserError(told) from None

  def serve(self) -> None:
    """Serve until KeyboardInterrupt, which is no error."""
    with contextlib.suppress(KeyboardInterrupt):
      self.serve_forever(poll_interval=0.2)

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Say nothing: a browser that goes away is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  server: Server

  def do_GET(self):
    # A page of the network whose name leads here is not to read what only this machine may see.
    host = urllib.parse.urlsplit(f'//{self.headers.get("Host", "")}').hostname
    name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip('/')
    if host not in (HOST, 'localhost'):
      self._answer(403, b'only this machine may look', 'text/plain')
    elif found := self.server.live.get(name):
      self._answer(200, *found)
    else:
      self._answer(404, b'not here', 'text/plain')

  def _answer(self, code, content, kind):
    sizes = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
    size = len(content)
    if code == 200 and sizes and int(sizes[1]) < size:  # Safari shows no video without parts
      first, last = int(sizes[1]), min(int(sizes[2] or size), size - 1)
      code, content = 206, content[first : last + 1]
    self.send_response(code)
    if code == 206:
      self.send_header('Content-Range', f'bytes {first}-{last}/{size}')
    self.send_header('Content-Type', kind)
    self.send_header('Content-Length', str(len(content)))
    self.send_header('Content-Security-Policy', _POLICY)
    self.send_header('X-Content-Type-Options', 'nosniff')
    self.send_header('Accept-Ranges', 'bytes')
    self.send_header('Cache-Control', 'no-cache')
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, format, *args):
    """Say nothing of each look."""
