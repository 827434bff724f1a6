"""How MuJoCo draws: which OpenGL, and at what quality. Shared by the suites on MuJoCo.

choose_backend()                # before dm_control is imported
apply_quality(model, 'fast')    # before the first picture of that model
"""

import ctypes
import functools
import importlib
import os
import sys
from typing import Any

QUALITIES = ('stock', 'fast')
# of Debian and Ubuntu
PACKAGES = {'egl': 'libegl1 libegl-mesa0 libgl1-mesa-dri', 'osmesa': 'libosmesa6'}


def choose_backend() -> str:
  """Makes sure that MUJOCO_GL names an OpenGL that works here, and returns its name.

  What the user set stays. Otherwise EGL is taken (on a GPU or in software), or
  else OSMesa (in software); neither needs a display.

  Raises:
    RuntimeError: neither works, or the one that the user set does not; the
      text names what to install.
  """
  chosen = os.environ.get('MUJOCO_GL') or _find_backend()
  if os.environ.get('MUJOCO_GL') != chosen:
    os.environ['MUJOCO_GL'] = chosen
    if early := sys.modules.get('mujoco.rendering.classic.gl_context'):
      importlib.reload(early)  # it was imported when there was nothing to read
  if chosen in _TRIALS:
    _first_that_works((chosen,))
  return chosen


def apply_quality(model: Any, render: str) -> None:
  """Sets how carefully a model is drawn; to be called before its first picture.

  Args:
    model: an mjModel, MuJoCo's own or dm_control's.
    render: 'stock' leaves the model as it is. 'fast' switches off shadows and
      multisampling: on a CPU 5 to 10 times as many pictures per second, which
      look a little different (no shadows, hard edges).
  """
  if render == 'fast':
    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0


def _find_backend() -> str:
  if sys.platform != 'linux':
    return 'glfw'  # macOS and Windows draw off screen with it
  demanded = os.environ.get('PYOPENGL_PLATFORM', '').lower()  # MuJoCo would refuse any other
  return _first_that_works((demanded,) if demanded in _TRIALS else tuple(_TRIALS))


@functools.cache
def _first_that_works(names: tuple[str, ...]) -> str:
  failures = []
  for name in names:
    try:
      _TRIALS[name]()
      return name
    except (OSError, AttributeError) as error:
      failures.append(f'{name}: {error}')
  install = ' or '.join(f"'sudo apt-get install {PACKAGES[name]}'" for name in names)
  raise RuntimeError(
    f'no OpenGL to draw the pictures with ({"; ".join(failures)}). On Debian or Ubuntu: {install}'
  )


def _try_egl():
  """Makes an OpenGL context without a display, the way MuJoCo does. Raises OSError saying how far
  it came.

  By ctypes: PyOpenGL would settle on a platform when it is imported, also if
  that platform then fails.
  """
  egl = ctypes.CDLL('libEGL.so.1')
  egl.eglGetProcAddress.restype = ctypes.c_void_p
  query_devices = _egl_function(egl, 'eglQueryDevicesEXT', ctypes.c_uint)
  get_display = _egl_function(egl, 'eglGetPlatformDisplayEXT', ctypes.c_void_p)
  devices, count = (ctypes.c_void_p * 16)(), ctypes.c_int()
  if not query_devices(16, devices, ctypes.byref(count)) or not count.value:
    raise OSError('no EGL device')
  selected = os.environ.get('MUJOCO_EGL_DEVICE_ID')
  devices = [
    device for index, device in enumerate(devices[: count.value]) if selected in (None, str(index))
  ]
  for device in devices:
    # EGL_PLATFORM_DEVICE_EXT
    display = ctypes.c_void_p(get_display(0x313F, ctypes.c_void_p(device), None))
    # Never terminated: MuJoCo shares the display, and initialising it twice is allowed.
    if display and egl.eglInitialize(display, None, None):
      return _try_context(egl, display)
  which = f'device {selected} (MUJOCO_EGL_DEVICE_ID)' if selected else 'any device'
  raise OSError(f'EGL cannot initialise {which}, of {count.value}')


def _egl_function(egl, name, result):
  address = egl.eglGetProcAddress(name.encode())
  if not address:
    raise OSError(f'the EGL library has no {name}')
  return ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)


def _try_context(egl, display):
  pbuffer, opengl = (0x3033, 0x0001), (0x3040, 0x0008)  # EGL_SURFACE_TYPE, EGL_RENDERABLE_TYPE
  depth, end = (0x3025, 24), 0x3038  # EGL_DEPTH_SIZE, EGL_NONE
  attributes = (ctypes.c_int * 7)(*pbuffer, *opengl, *depth, end)
  config, count = ctypes.c_void_p(), ctypes.c_int()
  egl.eglChooseConfig(display, attributes, ctypes.byref(config), 1, ctypes.byref(count))
  egl.eglBindAPI(0x30A2)  # EGL_OPENGL_API
  egl.eglCreateContext.restype = ctypes.c_void_p
  context = ctypes.c_void_p(count.value and egl.eglCreateContext(display, config, None, None))
  if not context:
    raise OSError('EGL makes no OpenGL context')
  egl.eglDestroyContext(display, context)


def _try_osmesa():
  for name in ('libOSMesa.so.8', 'libOSMesa.so.6', 'libOSMesa.so'):
    try:
      return ctypes.CDLL(name).OSMesaCreateContext
    except OSError:
      pass
  raise OSError('no libOSMesa')


_TRIALS = {'egl': _try_egl, 'osmesa': _try_osmesa}
