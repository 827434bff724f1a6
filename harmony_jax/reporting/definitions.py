"""The words of a report: what each number is, how it was made. Nothing here is a result."""

TABLE_2 = [
  (
    'Ours:',
    'mean ± standard deviation over seeds of the last evaluation of each complete run; below it the lowest and the '
    'highest seed. “training” is the mean return of the training episodes that ended last before it: other papers '
    'report that number, so both are here.',
  ),
  (
    'Bold:',
    'within 5 % of the best of the row, among published columns and ours, as in the paper’s Table 2.',
  ),
  (
    'Published:',
    'as printed in Table 2 of the HarmonyDream paper (arXiv 2310.00344). Its first four columns are what other papers '
    'report under their own protocols; the last two are evaluations of 100 episodes.',
  ),
]

AGGREGATES = [
  (
    'Brackets:',
    '95 % percentile intervals of 2,000 stratified bootstrap resamples of runs within each game.',
  ),
  (
    'Published:',
    'computed here from one printed mean per game, hence no interval; IQM and optimality gap need single runs, so '
    'they cannot be told.',
  ),
]

FEW = (
  'Few runs:',
  'a bootstrap interval of fewer than five runs per task is too narrow, that of two or three hardly more than '
  'their range.',
)

TASKS = [
  (
    'Evaluation:',
    'mean ± standard deviation over seeds of the last evaluation of each complete run; below it the lowest and the '
    'highest seed.',
  ),
  (
    'Training return:',
    'mean return of the training episodes that ended last before that evaluation, mean over seeds.',
  ),
]

DMC = [
  (
    'Return / 1000:',
    'an episode’s return is at most 1,000; mean over tasks of the tasks’ means over seeds, and interquartile mean of '
    'all runs, with 95 % stratified bootstrap intervals.',
  )
]

HOW = [
  (
    'Which evaluation counts',
    'The last one of a complete run: never the best one, never a seed chosen afterwards. Runs that are not complete '
    'are drawn in the curves and named, but enter no mean of a table.',
  ),
  (
    'Evaluation and training returns',
    'An evaluation plays complete episodes of their own, with the frozen policy. A training return is that of an '
    'episode played while learning.',
  ),
  (
    'Frames and steps',
    'A step is one decision of the agent, a frame one of the simulator: frames = steps × action repeat.',
  ),
  (
    'Probability of improvement',
    'P(X > Y) + ½ P(X = Y) for a run of X and one of Y on the same task, averaged over tasks.',
  ),
  (
    'Intervals',
    '95 %, percentile bootstrap, 2,000 resamples with seed 0: seeds of one task for curves; runs within each task, '
    'for all tasks at once (stratified), for aggregates. They say what other seeds of the same tasks might give. '
    'Where no task has two runs there is none.',
  ),
  (
    'Spread',
    '± is the standard deviation of the sample over seeds (n − 1), not the error of the mean.',
  ),
]

ATARI = [
  (
    'Human-normalised score',
    '(score − random) / (human − random): 0 is a random player, 1 a human one.',
  ),
  ('Mean and median', 'Over games, of the games’ means over runs.'),
  (
    'IQM',
    'Interquartile mean: the mean of all runs of all games without the lowest and the highest quarter.',
  ),
  (
    'Optimality gap',
    '1 − mean of min(score, 1) over all runs: how much is missing to human level. Less is better.',
  ),
  (
    'Performance profile',
    'For each τ the fraction of all runs whose human-normalised score is above τ.',
  ),
]

AUTHORS = [
  (
    'Methods called “authors”',
    'The authors’ published scores of single seeds: every point is the mean of 100 evaluation episodes, the last one '
    'at 400,000 frames. Not runs of this code.',
  )
]
