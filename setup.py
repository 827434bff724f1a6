"""Packaging of Harmony-JAX.

The ranges below are sets of versions that work together, which is narrower
than what the packages declare themselves: Meta-World 3.0.0 breaks from MuJoCo
3.17 on, although pip would accept both. `constraints/` pins one complete,
tested set per Python version.
"""

from setuptools import find_packages, setup

# The records and tables of reports, and their page.
REPORT = ['pandas>=2.3,<3', 'Jinja2>=3.1,<4']

INSTALL_REQUIRES = [
  # JAX 0.10 is the last for Python 3.11.
  'jax>=0.10.2,<0.13',
  'flax>=0.12.8,<0.13',
  'optax>=0.2.8,<0.3',
  'chex>=0.1.92,<0.2',
  # Nothing imports it but the tests, whose second implementation it is (tests/networks_test.py).
  'dm-haiku>=0.0.17,<0.1',
  'jaxtyping>=0.3.11,<0.4',
  'numpy>=2.1,<3',
  'absl-py>=2.3,<3',
  'pyyaml>=6,<7',
  'orbax-checkpoint>=0.12.8,<0.13',
  # Simulators. ale-py 0.10.0 and 0.10.1 ignore paddle actions (Pong).
  'ale-py>=0.12,<0.13',
  'gymnasium[atari]>=1.4,<1.5',
  # dm_control asks for the MuJoCo that it fits; tested are 1.0.41 with 3.8.1 and 1.0.49 with 3.16.
  # It needs labmaze, which has no wheel for Python 3.13: no DMC there.
  'dm_control>=1.0.41,<1.0.50; python_version < "3.13"',
  'mujoco>=3.8.1,<3.17',
  # Logs, videos and figures.
  'tensorboardX>=2.6.5,<3',
  'pillow>=12,<14',
  'imageio>=2.38,<3',
  'imageio-ffmpeg>=0.6,<1',
  'matplotlib>=3.10,<4',
  'rich>=14,<16',
  *REPORT,
  # Sweeps on Slurm.
  'submitit>=1.5.4,<2',
]

EXTRAS_REQUIRE = {
  'report': REPORT,
  'cuda12': ['jax[cuda12]>=0.10.2,<0.13'],
  'cuda13': ['jax[cuda13]>=0.10.2,<0.13'],
  'tpu': ['jax[tpu]>=0.10.2,<0.13'],
  # The compilers for them, where there are none: `experiments.benchmark --what=compiled`.
  'aot-gpu': ['jax[cuda13]>=0.10.2,<0.13'],
  'aot-tpu': ['jax[tpu]>=0.10.2,<0.13'],
  # Meta-World imports packaging without declaring it.
  'metaworld': ['metaworld==3.0.0', 'packaging>=24'],
  'crafter': ['crafter>=1.8.3,<2'],
  'minigrid': ['minigrid>=3.2,<4'],
  'memory_maze': ['memory-maze>=1.0.3,<2; python_version < "3.13"'],
  # CartPole and its kind draw with pygame: the edition that MiniGrid needs, for there can be one.
  'gym': ['pygame-ce>=2.5,<3'],
  # Environments that are JAX. gymnax 1 wants a Gymnasium below 1.4, 0.0.9 imports six without
  # declaring it; Craftax brings pygame, which cannot stand beside pygame-ce; navix brings wandb,
  # linters and tfp-nightly: docs/ondevice.md.
  'gymnax': ['gymnax>=0.0.9,<1', 'six>=1.16'],
  'craftax': ['craftax>=1.6.1,<2'],
  'navix': ['navix>=0.7.4,<1'],
  # Buffers of `experiments.offline` as datasets, and the other way round.
  'minari': ['minari[hdf5]>=0.5.3,<0.6'],
  # Sweeps on a Ray cluster.
  'ray': ['ray>=2.60,<3'],
  'wandb': ['wandb>=0.31,<1'],
  # It needs pillow below 13, so it does not go with `constraints/`.
  'trackio': ['trackio>=0.43,<1'],
}
SUITES = ('metaworld', 'crafter', 'minigrid', 'memory_maze')
# ruff and basedpyright (pyright without a download) check the code.
# The tests cover every suite of an extra, drawn gymnasium environments and sweeps on every engine.
# beartype checks the shapes in annotations (tests/conftest.py).
# rliable is what our statistics are held against; the arch it needs breaks from pandas 3 on.
# selenium drives a browser, where there is one, in which the page of a report is looked at.
EXTRAS_REQUIRE['dev'] = [
  'pytest>=9,<10',
  'pytest-xdist>=3.8,<4',
  'hypothesis>=6.100,<7',
  'beartype>=0.23,<0.24',
  'rliable>=1.2,<2',
  'ruff>=0.17,<0.18',
  'basedpyright>=1.40,<2',
  'selenium>=4.51,<5',
  *(
    need for extra in (*SUITES, 'gym', 'gymnax', 'minari', 'ray') for need in EXTRAS_REQUIRE[extra]
  ),
]

COMMANDS = {f'harmony_jax._commands.{name}': name for name in ('configs', 'experiments')}

setup(
  name='harmony-jax',
  version='0.2.0',
  description='World models whose tasks are kept in harmony, in JAX.',
  license='Apache-2.0',
  license_files=['LICENSE'],
  # The commands lie inside the library, so that they take no name from who installs it.
  packages=[*find_packages(include=['harmony_jax*']), *COMMANDS],
  package_dir=COMMANDS,
  package_data={
    'harmony_jax': [
      'py.typed',
      'reporting/templates/*',
      'reporting/*.json',
      'reporting/*.csv',
      'benchmarking/chips/*.txtpb',
      'published/*/*',
    ]
  },
  entry_points={'console_scripts': ['harmony = harmony_jax._commands.experiments.__main__:main']},
  python_requires='>=3.11',
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS_REQUIRE,
)
