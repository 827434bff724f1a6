"""DMC Remastered: DeepMind Control in a new look every episode, with the same physics (Grigsby &
Qi, 2020).

Seven factors vary (`dmcr_factors`). The original compiles a new model for every episode; here the
compiled model is repainted in place, which looks the same and takes a fraction of the time, as the
OpenGL context stays.

An episode's look is a function of its *visual seed*, its starting state of its *dynamics seed*, and
both are drawn from ranges by the episode's seed. HarmonyDream's authors draw the visual seeds of
training and of evaluation from the same 1 to 1,000,000; that is the range 'train', right on both
sides for published numbers. 'test' shares no seed with it, so that training on 'train' (or on the
first N of it) and evaluating on 'test' measures generalisation to unseen looks: other floors and
skies where they are painted, other combinations where they are photographs.
"""

# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# (MuJoCo and Meta-World are not typed)

import dataclasses
from typing import Any
from xml.etree import ElementTree

import numpy as np

from harmony_jax.envs import base, dmc, dmcr_factors, dmcr_textures, rendering
from harmony_jax.settings import setting

# First seed and number of seeds.
VISUAL_SEEDS = {'train': (1, 1_000_000), 'test': (1_000_001, 1_000_000)}
DYNAMICS_SEEDS = {'train': (1, 100_000), 'test': (100_001, 100_000)}

# Where a model has the place of a camera or a light: in its body's frame, and, for those that
# follow a body, from the body and from the centre of mass in the model's own pose.
PLACES = ('pos', 'pos0', 'poscom0')


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `DMCR`."""

  action_repeat: int = setting(2, 'simulator steps per agent step; rewards are summed', least=1)
  render: str = setting(
    'stock',
    'stock for published numbers; fast: no shadows, no multisampling',
    choices=rendering.QUALITIES,
  )
  vary: str = setting('all', 'all, or some of bg,floor,body,target,reflectance,camera,light')
  visual_seeds: str = setting(
    'train', 'looks: train, test, or a number N for the seeds 1 to N; 0: the plain look'
  )
  assets: str = setting(
    '', "folder with the original photographs; '': floors and skies are painted"
  )
  time_limit: int = setting(
    0, "simulator steps that end an episode; 0: the suite's 1,000", most=dmc.FRAMES
  )


class DMCR(dmc.DMC):
  """N environments of one task, each episode in a look of its own.

  Args:
    task: one of the 22 of the benchmark, e.g. 'cheetah_run'.
    num_envs: N.
    size: of the image, in pixels.
    dynamics_seeds: 'train', 'test', or a number N for the seeds 1 to N.
    **options: see `Options`. The authors' preset for the hopper leaves the camera out of `vary`:
      'bg,floor,body,target,reflectance,light'. `assets` is as in `dmcr_textures.Photos`.

  Attributes:
    visual_seed: [N] int, of the current episodes.

  Raises:
    ValueError: an unknown task or option.
    RuntimeError: dm_control is not installed, or nothing can draw.
  """

  def __init__(
    self, task: str, num_envs: int, *, size: int = 64, dynamics_seeds: str = 'train', **options: Any
  ):
    chosen = Options.of(options)
    self._visual_seeds = _seed_range('visual', chosen.visual_seeds, VISUAL_SEEDS)
    self._dynamics_seeds = _seed_range('dynamics', dynamics_seeds, DYNAMICS_SEEDS)
    if not self._dynamics_seeds[1]:
      raise ValueError('dynamics_seeds must be at least 1')
    self._vary = _factors(chosen.vary) if self._visual_seeds[1] else ()
    self._pictures = dmcr_textures.Photos(chosen.assets) if chosen.assets else dmcr_textures
    shared = {name: getattr(chosen, name) for name in ('action_repeat', 'render', 'time_limit')}
    super().__init__(task, num_envs, size=size, **shared)
    self.visual_seed = np.zeros(num_envs, int)
    model = self._slots[0].physics.model
    self._places = {
      name: getattr(model, name)[0].copy()
      for name in (f'{kind}_{place}' for kind in ('cam', 'light') for place in PLACES)
    }

  @staticmethod
  def tasks() -> list[str]:
    """Names of the tasks of the benchmark."""
    return [
      f'{domain}_{name}' for domain, ranges in dmcr_factors.DOMAINS.items() for name in ranges.tasks
    ]

  def _load(self):
    """One dm_control environment with the model as DMC Remastered changed it."""
    slot = super()._load()
    edits = {
      ('material', 'grid'): {'texrepeat': '3 3'},  # per metre
      ('texture', 'grid'): {'width': '800', 'height': '800'},
    }
    # A compiled texture keeps its size, so what will be painted gets the size of the pictures.
    if 'floor' in self._vary:
      edits['texture', 'grid'] = {
        'width': str(dmcr_textures.FLOOR_SIZE),
        'height': str(dmcr_textures.FLOOR_SIZE),
      }
    if 'bg' in self._vary:
      edits['texture', 'skybox'] = {
        'width': str(dmcr_textures.SKY_SIZE),
        'height': str(dmcr_textures.SKY_SIZE),
      }
    edits.update(dmcr_factors.DOMAINS[self._domain].edits)
    model, assets = dmc.domain_module(self._domain).get_model_and_assets()
    slot.physics.reload_from_xml_string(
      _edited(model, edits), {name: _edited(text, edits) for name, text in assets.items()}
    )
    return slot

  def _begin(self, index, seed):
    self.visual_seed[index] = _choose(seed, 0, self._visual_seeds)
    self._paint(index)
    super()._begin(index, _choose(seed, 1, self._dynamics_seeds))

  def _paint(self, index):
    """Gives one environment the look of its visual seed: every factor that varies is set, so
    nothing stays behind.
    """
    if self._vary:
      look = dmcr_factors.draw(self._domain, int(self.visual_seed[index]))
      for factor in self._vary:
        getattr(self, f'_paint_{factor}')(index, self._slots[index].physics.model, look[factor])

  def _paint_bg(self, index, model, seed):
    # on all faces of the cube
    self._set_texture(index, model, 'skybox', np.tile(self._pictures.sky(seed), (6, 1, 1)))

  def _paint_floor(self, index, model, seed):
    self._set_texture(index, model, 'grid', self._pictures.floor(seed))

  def _paint_body(self, index, model, colors):
    for name, color in zip(('self', 'effector'), colors):
      model.mat_rgba[model.name2id(name, 'material')] = color

  def _paint_target(self, index, model, color):
    model.mat_rgba[model.name2id('target', 'material')] = color

  def _paint_reflectance(self, index, model, reflectance):
    model.mat_reflectance[model.name2id('grid', 'material')] = reflectance

  def _paint_camera(self, index, model, camera):
    self._move(model, 'cam', camera['position'])
    if camera['quaternion'] is not None:
      import mujoco

      model.cam_quat[0] = camera['quaternion']
      # What a camera that follows a body reads; bodies with a camera are not turned in the model.
      mujoco.mju_quat2Mat(model.cam_mat0[0], camera['quaternion'])

  def _paint_light(self, index, model, light):
    for name in dmcr_factors.HEADLIGHT:
      getattr(model.vis.headlight, name)[:] = light[name]
    if light['position'] is not None:
      self._move(model, 'light', light['position'])
    if light['own_diffuse'] is not None:
      model.light_diffuse[0], model.light_specular[0] = light['own_diffuse'], light['own_specular']

  def _move(self, model, kind, position):
    """Puts camera ('cam') or light 0 at a position [3] in its body's frame."""
    shift = position - self._places[f'{kind}_pos']
    for place in PLACES:
      getattr(model, f'{kind}_{place}')[0] = self._places[f'{kind}_{place}'] + shift

  def _set_texture(self, index, model, name, picture):
    """Writes a picture [height, width, 3] into the model and to the graphics card."""
    import mujoco

    texture = model.name2id(name, 'texture')
    start = model.tex_adr[texture]
    model.tex_data[start : start + picture.size] = picture.ravel()
    contexts = self._slots[index].physics.contexts
    with contexts.gl.make_current() as context:
      context.call(mujoco.mjr_uploadTexture, model.ptr, contexts.mujoco.ptr, texture)


def _edited(text, edits):
  """MJCF with the attributes of some elements replaced: `{(tag, name): {attribute: value}}`."""
  root = ElementTree.fromstring(text)
  for element in root.iter():
    element.attrib.update(edits.get((element.tag, element.get('name')), {}))
  return ElementTree.tostring(root)


def _factors(vary):
  """'bg,floor' -> ('bg', 'floor')."""
  if vary == 'all':
    return dmcr_factors.FACTORS
  names = tuple(name.strip() for name in vary.split(','))
  for name in names:
    if name not in dmcr_factors.FACTORS:
      raise base.unknown('factor of DMC Remastered', name, ('all', *dmcr_factors.FACTORS))
  return names


def _seed_range(kind, option, named):
  """(first, number) of the seeds that 'train', 'test' or a number stands for."""
  if option in named:
    return named[option]
  if str(option).isdecimal():
    return 1, int(option)
  raise ValueError(f"{kind}_seeds is {option!r}: it takes 'train', 'test' or a number of seeds")


def _choose(episode_seed, purpose, seed_range):
  """A seed of the range, by the episode's seed; 0 from the empty one."""
  first, number = seed_range
  if not number:
    return 0
  word = np.random.SeedSequence((episode_seed, purpose)).generate_state(1, np.uint64)[0]
  return first + int(word) % number


def _protocol(config):
  facts, phrases = dmc.control(config)
  options = base.evaluation_options(config)
  vary, seeds = options.get('vary', 'all'), options.get('visual_seeds', 'train')
  trained = config.get('env', {}).get('visual_seeds', 'train')
  looks = {'training': _looks(trained), 'evaluation': _looks(seeds)}
  varied = _factors(vary) if {str(trained), str(seeds)} != {'0'} else ()
  pictures = 'photographs' if options.get('assets') else 'painted (not the original photographs)'
  pictures = pictures if {'bg', 'floor'} & {*varied} else 'the plain ones'
  facts |= {
    'camera': 'varies' if 'camera' in varied else 0,
    'vary': vary,
    'looks': looks,
    'pictures': pictures,
  }
  return facts, [
    *phrases,
    f'a new look in every episode (varied: {vary})' if varied else 'the plain look',
    f'floors and skies: {pictures}',
    f'looks of training: {looks["training"]}',
    f'looks of evaluation: {looks["evaluation"]}',
  ]


def _looks(seeds):
  return {
    'train': 'seeds 1 to 1,000,000',
    'test': 'seeds from 1,000,001, none of those of training',
    '0': 'the plain one',
  }.get(str(seeds), f'seeds 1 to {seeds}')


SUITE = base.Suite(environment=DMCR, title='DMC Remastered', protocol=_protocol, slow=True)
