"""The training loop: policy → replay → update → environment, with evaluation and saving on the way.

An update is only begun, not waited for: the device works on it while the environments step, the
next batch is put together and lines are written. The next action waits for it, so that the policy
is never an update late.

Of several processes that train together, each runs this loop with its share of the environments and
of each batch. All do the same number of updates between the same steps, for an update waits for
all; `parallel.exchange` and `gather` do, too, so they stand where all processes come by. Process 0
alone writes, and saves what all know.

Counting: a step is one time step of one environment, the one that begins an episode included (as
the authors count); a frame is `step × action_repeat`; an update is one call of `train_step`.
"""

import functools
import os
import threading
import time

import jax
import numpy as np

from harmony_jax import device_replay, envs, parallel
from harmony_jax.agent import Agent, parameter_count
from harmony_jax.errors import UserError
from harmony_jax.prefetch import Prefetcher
from harmony_jax.replay import Draw, Replay
from harmony_jax.training import assignments, evaluation, faults, video
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.interruption import Interrupted, Interruption
from harmony_jax.training.logger import MetricsWriter, NoWriter
from harmony_jax.training.progress import Progress, format_seconds

# For trainers in threads. Processes of environments are started with changed variables of this
# process, and orbax numbers its saves in this process: two at a time would take each other's.
_one_at_a_time = threading.Lock()


class Trainer:
  """One run in one folder. `run()` continues from the newest checkpoint and trains to the end."""

  def __init__(
    self,
    config,
    folder,
    wandb=False,
    interruption=None,
    compiler=None,
    name='',
    sharing=1,
    check=None,
  ):
    """`config` as of configs/, `folder` an open `RunFolder`. The last four are for one run among
    several (`seeds.py`).

    Args:
      interruption: an `Interruption`, by which the run can be asked to save and to end.
      compiler: called with the agent; returns what `parallel.compile_agent` returns. By default
        that.
      name: stands before its lines; a run without one may show a panel.
      sharing: how many runs put their replay on the device.
      check: called before every step; raises an exception to end the run.
    """
    self.config, self.folder, self.name, self.sharing = config, folder, name, sharing
    self.interruption = interruption or Interruption()
    self.check = check or (lambda: None)
    self.process, self.processes = parallel.process_index(), parallel.process_count()
    self.first_env, self.num_envs = parallel.share(config.num_envs, 'config.num_envs')
    self.devices = 1  # of each process, as many as the one with the fewest has
    if not compiler:
      self.devices = min(
        parallel.exchange(parallel.choose_devices(config.devices, config.batch_size))
      )
    compiler = compiler or functools.partial(parallel.compile_agent, devices=self.devices)
    self.env = self._make_env(self.num_envs)
    self.eval_envs = []  # in groups: made for the first evaluation
    spec = self.env.spec
    shapes = {name: array.shape for name, array in spec.observation.items()}
    try:
      self.agent = Agent.from_config(config, shapes, spec.num_actions, spec.discrete)
    except ValueError as error:  # sizes that do not fit the observations
      raise UserError(str(error)) from None
    self.compiled = compiler(self.agent)
    self.replay = self._make_replay(spec)
    self.prefetcher = Prefetcher(self.replay, self.compiled['put'])
    self.writer = (
      NoWriter()
      if self.process
      else MetricsWriter(folder.path, wandb=wandb, config=config.to_dict())
    )
    if not self.process:
      (folder / 'checkpoints').mkdir(exist_ok=True)
    parallel.exchange(None)  # the others only look into it
    self.checkpoints = Checkpoints(folder / 'checkpoints', read_only=self.process > 0)
    self.progress = None

    seed_key = jax.random.key(config.seed)
    self.state = self.compiled['init'](jax.random.fold_in(seed_key, 0))
    self.player = evaluation.Player(
      self.agent,
      self.compiled['act'],
      self.compiled['weights'](self.state),
      self.num_envs,
      jax.random.fold_in(seed_key, 2 + self.process),
    )
    self.episodes = envs.Episodes(self.env, config.seed, 'train', self.first_env)
    self.timestep = None
    self.step = self.update = 0
    self.trained_at = None  # step up to which updates have been paid for; None before the first
    self.returns = np.zeros(self.num_envs)
    self.recent = []  # scores of training episodes since the last evaluation
    self.hours = 0.0
    self.metrics = None  # of the last update, still on the device
    self.unwritten = None  # a line of metrics whose update may still be running
    self.unchecked = []  # draws of the updates whose numbers have not been looked at
    self.left_out = 0  # updates that were not finite
    self.last_score = None
    self.evaluated = None  # step of the last evaluation
    self.saved = None  # step of the last checkpoint

  def _make_env(self, num_envs, **options):
    config = self.config
    try:
      with _one_at_a_time:
        return envs.make(
          config.suite, config.task, num_envs, config.env_processes, **{**config.env, **options}
        )
    except (
      ValueError,
      RuntimeError,
    ) as error:  # a bad option, or a simulator that is not there: the text says which
      raise UserError(str(error)) from None

  def _make_replay(self, spec):
    config = self.config
    specs = {name: (array.shape, array.dtype) for name, array in spec.observation.items()}
    specs |= {'action': ((spec.num_actions,), np.float32), 'reward': ((), np.float32)}
    specs |= dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))
    capacity, batch = (
      parallel.share(config[name], f'config.{name}')[1]
      for name in ('replay_capacity', 'batch_size')
    )
    try:
      replay = Replay(
        specs,
        self.num_envs,
        capacity,
        batch,
        config.batch_length,
        config.seed,
        part=(self.process, self.processes),
        **config.replay,
      )
      return device_replay.choose(self._replay_place(replay), replay)
    except ValueError as error:
      raise UserError(str(error)) from None

  def _replay_place(self, replay):
    """The configuration's; 'auto' is the host where several runs' replays do not fit on the device
    together.
    """
    memory = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', 0)
    room = device_replay.MEMORY_SHARE * memory
    crowded = self.sharing > 1 and self.sharing * device_replay.device_nbytes(replay) > room
    return 'host' if crowded and self.config.replay_on == 'auto' else self.config.replay_on

  # ------------------------------------------------------------------------------------------------

  def run(self):
    """Trains to `config.steps`; returns the last score. Raises `Interrupted` where it was asked to
    end before.
    """
    try:
      self._resume()
      lines = {'live': False, 'prefix': f'{self.name}: '} if self.name else {}
      if self.process:
        lines = {'live': False, 'file': open(os.devnull, 'w', encoding='utf-8')}
      self.progress = Progress(self.config.steps, self.step, **lines)
      self._introduce()
      self._loop()
      self.checkpoints.wait()
      if not self.process:
        self.folder.mark_complete(
          {'step': self.step, 'update': self.update, 'hours': self.hours, 'score': self.last_score}
        )
      self.progress.line(
        f'complete: {self.step:,} steps, {self.update:,} updates, {self.hours:.2f} h, '
        f'final score {self.last_score:.2f}; results in {self.folder.path}'
      )
      return self.last_score
    finally:
      self._close()

  def _loop(self):
    config, started, hours_before = self.config, time.monotonic(), self.hours
    self.interruption.arm()
    if self.step:
      # interrupted in an evaluation
      evaluate = self._crossed(config.eval_every) and self.evaluated != self.step
    else:
      evaluate = config.eval_at_start
    if evaluate:
      self._evaluate()
    if self.timestep is None:
      self.timestep = self.episodes.step(None)
    while self.step < config.steps:
      self.check()
      learning = self._filled()
      with jax.transfer_guard('disallow'):  # a copy that nobody asked for would wait for the device
        action = self._choose(random=not learning)
      self._write_metrics()  # the action waited for their update
      self._check_finite()
      ends = {
        name: self._crossed(every)
        for name, every in (
          ('log', config.log_every),
          ('eval', config.eval_every),
          ('save', config.checkpoint_every),
          ('video', config.video_every),
        )
      }
      if learning:
        self._train(self._due())
      self.timestep = self.episodes.step(action)
      self.hours = hours_before + (time.monotonic() - started) / 3600
      if ends['log']:
        self._log()
      if ends['video'] and self.update:
        self._open_loop_video()
      # they do not leave an evaluation early, and may be ended in it
      if ends['save'] and self.processes > 1:
        self._save()
      if ends['eval']:
        self._evaluate()
      self.hours = hours_before + (time.monotonic() - started) / 3600
      if ends['save'] and self.saved != self.step:
        self._save()
      self.progress.update(self.step)
      self._leave_if_asked(ends['log'])
    self._write_metrics()

  def _leave_if_asked(self, logged):
    """Ends the run where this process was asked to; several processes agree on it whenever metrics
    are logged.
    """
    requested = self.interruption.requested
    if self.processes > 1:
      requested = next(filter(None, parallel.exchange(requested)), '') if logged else ''
    if requested and self.step < self.config.steps:
      self._leave(requested)

  def _leave(self, requested):
    """Saves, where that was not just done, and ends the run."""
    if self.step and self.saved != self.step:
      self._save()
    self.checkpoints.wait()
    saved = (
      f'saved at step {self.step:,} of {self.config.steps:,} in'
      if self.step
      else 'nothing to save yet in'
    )
    raise Interrupted(f'{requested}: {saved} {self.folder.path}')

  def _crossed(self, every):
    """Whether this step of N environments passed a multiple of `every`, or the end."""
    if not every:
      return False
    before = self.step - self.config.num_envs
    return self.step // every > before // every or self.step >= self.config.steps

  def _filled(self):
    """Whether there is enough to learn from; looked at after every `prefill_chunk` steps, as the
    authors do.
    """
    if self.trained_at is None and self._crossed(self.config.prefill_chunk):
      if self._all_filled():
        self.trained_at = float(self.step)
    return self.trained_at is not None

  def _all_filled(self):
    """Whether every process has enough: episodes end at other times elsewhere."""
    return all(
      parallel.exchange(self.replay.filled(self.config.prefill // parallel.process_count()))
    )

  def _choose(self, random):
    """Chooses actions for the present time step, and stores both; returns the actions for the
    environments.
    """
    config, spec, timestep = self.config, self.env.spec, self.timestep
    if random:
      rng = np.random.Generator(np.random.Philox(key=[config.seed, self.step]))
      if spec.discrete:
        vector = np.eye(spec.num_actions, dtype=np.float32)[
          rng.integers(spec.num_actions, size=config.num_envs)
        ]
      else:
        vector = rng.uniform(-1, 1, (config.num_envs, spec.num_actions)).astype(np.float32)
      vector = vector[self.first_env : self.first_env + self.num_envs]
      action = evaluation.to_environment(vector, spec.discrete)
    else:
      action, vector = self.player.act(self.compiled['weights'](self.state), timestep, self.step)
    self.replay.append(
      {
        **timestep.observation,
        'action': np.where(timestep.is_last[:, None], 0, vector).astype(np.float32),
        'reward': timestep.reward,
        'is_first': timestep.is_first,
        'is_last': timestep.is_last,
        'is_terminal': timestep.is_terminal,
      }
    )
    self.returns = np.where(timestep.is_first, 0, self.returns) + timestep.reward
    self.recent += self.returns[timestep.is_last].tolist()
    self.step += config.num_envs
    return action

  def _steps_per_update(self):
    """Steps of each environment between two updates; a batch chosen too far ahead would be
    overwritten.
    """
    config = self.config
    return config.batch_size * config.batch_length / (config.train_ratio * config.num_envs)

  def _due(self):
    """Updates to do now: train_ratio replayed steps per environment step, the first `pretrain` ones
    at once.
    """
    ratio = self.config.train_ratio / (self.config.batch_size * self.config.batch_length)
    if self.update == 0:
      self.trained_at = float(self.step)
      return self.config.pretrain
    due = int((self.step - self.trained_at) * ratio)
    self.trained_at += due / ratio
    return due

  def _train(self, due):
    """Begins `due` updates. The next batch is chosen and copied while the device works on the
    present one.
    """
    if self.update == 0 and due and self.config.weighting.calibrate:
      self._calibrate()
    for number in range(due):
      if not len(self.prefetcher):
        self.prefetcher.request(self.update)
      self.unchecked += self.prefetcher.draws[:1]
      batch = self.prefetcher.get()
      if number < due - 1 or self._steps_per_update() < self.replay.margin / 2:
        self.prefetcher.request(self.update + 1)
      with jax.transfer_guard('disallow'):
        self.state, self.metrics = self.compiled['train_step'](self.state, batch)
      self.update += 1
    if due and self.update == due:
      self.progress.line(f'first update after {self.step:,} steps')

  def _calibrate(self):
    """Starts the harmonizers at the closed form for the losses of the first batches."""
    state = self.compiled['local'](self.state)
    batches = [
      self.replay.sample(2**31 + index) for index in range(self.config.weighting.calibrate)
    ]
    losses = [jax.device_get(self.compiled['task_losses'](state, batch)) for batch in batches]
    means = parallel.exchange({k: float(np.mean([x[k] for x in losses])) for k in losses[0]})
    state = self.agent.with_harmonizers(
      self.compiled['gather'](self.state), {k: np.mean([x[k] for x in means]) for k in means[0]}
    )
    self.state = self.compiled['spread'](state)

  # ------------------------------------------------------------------------------------------------

  def _log(self):
    """Prepares a line of metrics; it is written when its update is done."""
    metrics = {} if self.metrics is None else dict(self.metrics)
    windows, failures, recent = zip(
      *parallel.exchange([self.replay.windows, getattr(self.env, 'failures', 0), self.recent])
    )
    metrics |= {
      'speed/env_steps_per_second': self.progress.speed() or 0.0,
      'time/hours': self.hours,
      'replay/windows': sum(windows),
    }
    if any(failures):  # of environments' processes, since this start of the run
      metrics['env/failures'] = sum(failures)
    recent = sum(recent, [])
    if recent:
      metrics['return/train'] = float(np.mean(recent))
    self.unwritten = (self.step, self.update, metrics)

  def _write_metrics(self):
    if self.unwritten is None:
      return
    (step, update, metrics), self.unwritten = self.unwritten, None
    metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
    self.writer.write(step, step * self.env.spec.action_repeat, update, metrics)
    shown = {
      k: v
      for k, v in metrics.items()
      if k.endswith(('/sigma', '/weight')) or k in ('loss/world_model', 'return/train')
    }
    self.progress.update(self.step, shown)

  def _check_finite(self):
    """Looks at the updates so far. Raises UserError where more were not finite than may be left
    out.
    """
    if not self.unchecked:
      return
    found = int(jax.device_get(self.state.nonfinite))
    if found > self.config.skip_nonfinite:
      self._stop_nonfinite()
    if found > self.left_out:
      self.progress.line(
        f'{found - self.left_out} of the updates up to {self.update:,} left out: not finite '
        f'({found} of {self.config.skip_nonfinite} so far)'
      )
    self.left_out, self.unchecked = found, []

  def _stop_nonfinite(self):
    """The state has stayed as it was before the update that went wrong, whose draw is among those
    not looked at.
    """
    update = int(self.state.step)
    batch = self.replay.gather(next(draw for draw in self.unchecked if draw.update == update))
    batch, state = parallel.concatenate(jax.device_get(batch)), self.compiled['gather'](self.state)
    if self.process:
      parallel.exchange(None)  # the end of one is the end of all: not before process 0 is done
      raise UserError(f'update {update:,} is not finite: process 0 says more')
    names, path = faults.dump(self.agent, state, batch, self.folder.path, {'step': self.step})
    self.checkpoints.wait()
    parallel.exchange(None)
    last = self.checkpoints.latest()
    raise UserError(
      f'update {update:,} at step {self.step:,} is not finite, first in {names[0] if names else "a sum"}; the last '
      f'checkpoint is {"none" if last is None else f"of step {last:,}"}, state and batch of the update are in {path}: '
      f'python -m experiments.reproduce --logdir={self.folder.path}'
    )

  def _evaluate(self):
    self._write_metrics()
    self._check_finite()
    config = self.config
    last = self.step >= config.steps
    episodes = config.final_eval_episodes if last else config.eval_episodes
    if not episodes:
      return
    if not self.eval_envs:
      sizes = evaluation.group_sizes(max(1, min(config.eval_envs, episodes) // self.processes))
      self.eval_envs = [self._make_env(size, **config.eval_env) for size in sizes]
    started = time.monotonic()
    played = evaluation.evaluate(
      self.agent,
      self._act_in_evaluation,
      self.compiled['weights'](self.state),
      self.eval_envs,
      config.seed,
      self.step,
      episodes,
      config.eval_policy == 'mode',
      (self.process, self.processes),
    )
    results, self.recent = evaluation.together(parallel.exchange([played, self.recent]))
    results = evaluation.summary(results)
    seconds = time.monotonic() - started
    train = {
      'train_mean': float(np.mean(self.recent)) if self.recent else None,
      'train_scores': self.recent,
    }
    self.writer.write_score(
      {
        'step': self.step,
        'frame': self.step * self.env.spec.action_repeat,
        'update': self.update,
        **{f'eval_{k}': v for k, v in results.items()},
        **train,
        'time/hours': self.hours,
        'time/eval_seconds': seconds,
      }
    )
    measures = {k: v for k, v in results.items() if k not in ('mean', 'std', 'scores', 'lengths')}
    self.writer.write(
      self.step,
      self.step * self.env.spec.action_repeat,
      self.update,
      {
        'return/eval': results['mean'],
        'return/eval_std': results['std'],
        'time/eval_seconds': seconds,
        **{f'eval/{k}': v for k, v in measures.items()},
      },
    )
    self.recent, self.last_score = [], measures.get(config.score, results['mean'])
    self.evaluated = self.step
    shown = 'none finished' if train['train_mean'] is None else f'{train["train_mean"]:.2f}'
    self.progress.update(self.step, {'return/eval': results['mean']})
    self.progress.line(
      f'step {self.step:,} (frame {self.step * self.env.spec.action_repeat:,}): evaluation '
      f'{results["mean"]:.2f} ± {results["std"]:.2f} over {episodes} episodes in {seconds:.0f} s; '
      + ''.join(f'{name} {value:.2f}; ' for name, value in measures.items())
      + f'training episodes {shown}'
    )

  def _act_in_evaluation(self, *args, **kwargs):
    """The compiled `act`; an evaluation may take long, and is begun anew by the run that goes on."""
    if self.interruption.requested and self.processes == 1:
      self._leave(self.interruption.requested)
    return self.compiled['act'](*args, **kwargs)

  def _open_loop_video(self):
    """Sequences of the replay beside their open-loop prediction, 5 steps of context: pictures, or
    prototypes of one.
    """
    model = self.agent.world_model
    if self.process or not (model.decoder or model.prototypes):
      return
    batch, context, folder = self.replay.sample(2**32 + self.update), 5, self.folder / 'videos'
    batch = {k: v[:6] for k, v in jax.device_get(batch).items()}
    found = jax.device_get(self.compiled['report'](self.compiled['local'](self.state), batch))
    for name, images in found['observation'].items():
      if images.ndim == 5:
        grid = video.open_loop_grid(batch[name], images, context)
        video.save_video(folder / f'open_loop_{name}_{self.step:08d}', grid)
    if model.prototypes:
      seen, pictures = (
        np.arange(self.config.batch_length) < context,
        batch[model.encoder_images()[0]][0],
      )
      drawn = assignments.picture(
        pictures,
        found['assigned'][0],
        found['prototype'][0],
        seen,
        f'{self.config.suite} {self.config.task}, step {self.step:,}: a sequence of the replay',
      )
      video.save_image(folder / f'prototypes_{self.step:08d}.png', drawn)

  # ------------------------------------------------------------------------------------------------

  def _save(self):
    """Replay first, then the checkpoint that refers to it.

    A checkpoint is of all environments, whichever process has them, so that other numbers of
    processes can take it up.
    """
    self._write_metrics()
    self._check_finite()
    differing = self.compiled['differing'](self.state)
    if differing:
      raise UserError(
        f'at step {self.step:,} the devices do not agree about {differing[0]}: one of them is faulty, or '
        'the program is; nothing was saved'
      )
    lines = self.writer.flush()
    self.replay.save(self.folder / 'replay')
    saved = {
      'train': self.compiled['gather'](self.state),
      'player': parallel.concatenate(self.player.carry),
    }
    # Of environments, in their order, and of processes. Comes after the replay of all has been
    # saved.
    episodes, returns, recent, requested = zip(
      *parallel.exchange(
        [
          self.episodes.state(),
          self.returns.tolist(),
          self.recent,
          [[np.asarray(part).tolist() for part in draw] for draw in self.prefetcher.draws],
        ]
      )
    )
    self.saved = self.step
    if self.process:
      return
    with _one_at_a_time:
      self.checkpoints.save(
        self.step,
        saved,
        {
          'step': self.step,
          'update': self.update,
          'trained_at': self.trained_at,
          'hours': self.hours,
          'replay_steps': self.replay.steps,
          'last_score': self.last_score,
          'evaluated': self.evaluated,
          'lines': lines,
          'processes': self.processes,
          'spec': self.env.spec.to_json(),
          'episodes': {k: sum((one[k] for one in episodes), []) for k in episodes[0]},
          'returns': sum(returns, []),
          'recent': recent,
          'requested': sum(requested, []),
        },
      )

  def _resume(self):
    """Takes everything up from the newest checkpoint, if there is one; else drops lines of a run
    that saved none.
    """
    found = parallel.exchange(self.checkpoints.latest())
    if None in found:
      if any(found):
        raise UserError(
          f'process {found.index(None)} sees no checkpoint in {self.folder.path}, where others see some: '
          'all processes need one folder that they share'
        )
      self.writer.truncate_after(-1)
      return
    saved, meta = self._restore()
    self.state = self.compiled['spread'](saved['train'])
    mine = slice(self.first_env, self.first_env + self.num_envs)
    if self.processes > 1:
      saved['player'] = jax.tree.map(lambda leaf: leaf[mine], saved['player'])
    self.player.carry = saved['player']
    self.left_out = int(self.state.nonfinite)
    for name in ('step', 'update', 'trained_at', 'hours', 'last_score', 'evaluated'):
      setattr(self, name, meta[name])
    self.saved = self.step
    # before processes were counted there was one
    recent = meta['recent'] if 'processes' in meta else [meta['recent']]
    if len(recent) == self.processes:
      self.recent = recent[self.process]
      each = len(meta['requested']) // self.processes
      for update, envs, starts, steps in meta['requested'][self.process * each :][:each]:
        self.prefetcher.take_up(Draw(update, np.array(envs), np.array(starts), steps))
    else:  # the batches that were chosen are of other environments, and a part of the replay may be too little
      self.recent = [] if self.process else sum(recent, [])
      if not self._all_filled():
        self.trained_at = None
    self.returns = np.array(meta['returns'][mine])
    self.timestep = self.episodes.restore(
      {name: values[mine] for name, values in meta['episodes'].items()}
    )
    self.writer.truncate_after(self.step, meta['lines'])

  def _restore(self):
    """(state, meta) of the newest checkpoint that is intact with every process's part of the
    replay.
    """
    train = jax.eval_shape(self.agent.init, jax.random.key(0))
    player = jax.eval_shape(
      lambda params: self.agent.initial_carry(params, self.config.num_envs), train.params
    )
    like = {'train': train, 'player': player}
    load = lambda meta: self.replay.load(
      self.folder / 'replay', meta['replay_steps'], meta.get('processes', 1)
    )
    step = None
    while True:
      saved, meta = self.checkpoints.restore(like, step, load)
      steps = parallel.exchange(meta['step'])
      step = min(steps)
      if len(set(steps)) == 1:
        return saved, meta
      self.checkpoints.go_back(step)

  def _introduce(self):
    config, count = self.config, parameter_count(self.state.params)
    say = self.progress.line
    say(
      f'{config.suite} {config.task}, {config.method}, weighting {config.weighting.rule}, seed {config.seed}: '
      f'{config.steps:,} steps, {self._updates_planned():,} updates, {count:,} parameters, '
      f'{config.compute_dtype} on {self._machine()}'
    )
    say(self.replay.describe() + (' in each of them' if self.processes > 1 else ''))
    if self.step:
      say(
        f'continues from step {self.step:,} (update {self.update:,}, {format_seconds(self.hours * 3600)} so far)'
      )

  def _machine(self):
    kind, there = jax.local_devices()[0].device_kind, jax.local_device_count()
    count = f'{self.devices} × ' if self.devices > 1 else ''
    idle = f' ({there - self.devices} more are idle)' if there > self.devices else ''
    return f'{count}{kind}{idle}' + (
      f' in each of {self.processes} processes' if self.processes > 1 else ''
    )

  def _updates_planned(self):
    config = self.config
    return (
      config.pretrain
      - 1
      + int(config.steps * config.train_ratio / (config.batch_size * config.batch_length))
    )

  def _close(self):
    if self.progress:
      self.progress.close()
    self.prefetcher.close()
    self.writer.close()
    self.checkpoints.close()
    self.env.close()
    for env in self.eval_envs:
      env.close()
